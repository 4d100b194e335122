//! Detects the rank that the others wait for. Pure: waiting times and the clock are arguments.

/// Seconds that are judged at once, and between two warnings: many steps, so that one slow step, such as one
/// with a checkpoint, does not count.
const WINDOW_SECONDS: f64 = 60.0;

/// The share of the window that the others wait more than the straggler before it is reported.
const STRAGGLER_THRESHOLD: f64 = 0.2;

/// Accumulates how long each rank waits for others.
///
/// # Examples
/// ```
/// use cnclip_distributed::StragglerDetector;
///
/// let mut detector = StragglerDetector::new(3);
/// let waits = [20.0, 1.0, 22.0];
/// let straggler = detector.record_waits(waits.into_iter(), 60.0).unwrap();
/// assert_eq!(straggler.rank, 1);
/// assert_eq!(straggler.extra_wait_seconds, 20.0);
/// ```
#[derive(Clone, Debug)]
pub struct StragglerDetector {
    wait_seconds: Vec<f64>,
    seconds: f64,
}

/// A rank that slows down the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Straggler {
    /// Its rank.
    pub rank: usize,
    /// How much longer the others waited than it did, on average.
    pub extra_wait_seconds: f64,
    /// Length of the window that this was measured in.
    pub window_seconds: f64,
}

impl StragglerDetector {
    /// For a number of ranks, none of which has waited yet.
    pub fn new(ranks: usize) -> Self {
        Self {
            wait_seconds: vec![0.0; ranks],
            seconds: 0.0,
        }
    }

    /// Adds what each rank waited in the last `seconds`; at the end of a window, the straggler in it.
    pub fn record_waits(
        &mut self,
        waits: impl Iterator<Item = f64>,
        seconds: f64,
    ) -> Option<Straggler> {
        for (sum, wait) in self.wait_seconds.iter_mut().zip(waits) {
            *sum += wait;
        }

        self.seconds += seconds;
        if self.seconds < WINDOW_SECONDS {
            return None;
        }

        let window = std::mem::replace(self, Self::new(self.wait_seconds.len()));
        window.find_straggler().filter(|straggler| {
            straggler.extra_wait_seconds >= STRAGGLER_THRESHOLD * straggler.window_seconds
        })
    }

    /// In a collective everybody waits for the last one, who does not wait: the rank that waited least is
    /// the one that was waited for.
    fn find_straggler(&self) -> Option<Straggler> {
        let (rank, least) = self
            .wait_seconds
            .iter()
            .enumerate()
            .min_by(|a, b| a.1.total_cmp(b.1))?;

        let other_count = self
            .wait_seconds
            .len()
            .checked_sub(1)
            .filter(|&count| count > 0)? as f64;

        let others_sum = self.wait_seconds.iter().sum::<f64>() - least;
        Some(Straggler {
            rank,
            extra_wait_seconds: others_sum / other_count - least,
            window_seconds: self.seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straggler_is_found_once_a_window() {
        let mut detector = StragglerDetector::new(3);
        for _ in 0..2 {
            let found: Vec<_> = (0..6)
                .filter_map(|_| detector.record_waits([3.0, 0.5, 4.0].into_iter(), 10.0))
                .collect();

            assert_eq!(
                found,
                [Straggler {
                    rank: 1,
                    extra_wait_seconds: 18.0,
                    window_seconds: 60.0
                }]
            );
        }
    }

    #[test]
    fn ranks_that_wait_alike_or_briefly_are_no_stragglers() {
        for waits in [[3.0, 3.0], [0.0, 1.9], [0.0, 0.0]] {
            let mut detector = StragglerDetector::new(2);
            assert!(
                (0..20).all(|_| detector.record_waits(waits.into_iter(), 10.0).is_none()),
                "{waits:?}"
            );
        }

        assert_eq!(
            StragglerDetector::new(1).record_waits([9.0].into_iter(), 99.0),
            None
        );
    }
}
