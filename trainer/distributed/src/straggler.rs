//! Finds the rank that the others wait for. Pure: what was waited and the time are arguments.

/// Seconds over which is judged, and between two warnings.
const WINDOW_SECONDS: f64 = 60.0;
/// The share of them that the others wait before it is worth a word.
const STRAGGLER_THRESHOLD: f64 = 0.2;

/// Seconds that each rank waited for others, over a while.
#[derive(Clone, Debug)]
pub struct StragglerDetector {
    wait_seconds: Vec<f64>,
    seconds: f64,
}

/// A rank that holds up the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Straggler {
    /// Its number.
    pub rank: usize,
    /// How long the others waited more than it did, on average.
    pub extra_wait_seconds: f64,
    /// In how many seconds.
    pub window_seconds: f64,
}

impl StragglerDetector {
    /// Of so many ranks, none of which has waited yet.
    pub fn new(ranks: usize) -> Self {
        Self {
            wait_seconds: vec![0.0; ranks],
            seconds: 0.0,
        }
    }

    /// Adds what each rank waited in some seconds; at the end of a window, who was slow in it.
    pub fn record_waits(
        &mut self,
        waited: impl Iterator<Item = f64>,
        seconds: f64,
    ) -> Option<Straggler> {
        self.wait_seconds
            .iter_mut()
            .zip(waited)
            .for_each(|(sum, waited)| *sum += waited);

        self.seconds += seconds;
        if self.seconds < WINDOW_SECONDS {
            return None;
        }

        let window = std::mem::replace(self, Self::new(self.wait_seconds.len()));
        window.find_straggler().filter(|slowest| {
            slowest.extra_wait_seconds >= STRAGGLER_THRESHOLD * slowest.window_seconds
        })
    }

    /// The rank that waited least is the one that was waited for.
    fn find_straggler(&self) -> Option<Straggler> {
        let (rank, least) = self
            .wait_seconds
            .iter()
            .enumerate()
            .min_by(|a, b| a.1.total_cmp(b.1))?;

        let others = self
            .wait_seconds
            .len()
            .checked_sub(1)
            .filter(|&others| others > 0)? as f64;

        let waited = (self.wait_seconds.iter().sum::<f64>() - least) / others - least;
        Some(Straggler {
            rank,
            extra_wait_seconds: waited,
            window_seconds: self.seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_that_holds_up_the_others_is_named_once_a_window() {
        let mut pace = StragglerDetector::new(3);
        for _ in 0..2 {
            let told: Vec<_> = (0..6)
                .filter_map(|_| pace.record_waits([3.0, 0.5, 4.0].into_iter(), 10.0))
                .collect();

            assert_eq!(
                told,
                [Straggler {
                    rank: 1,
                    extra_wait_seconds: 18.0,
                    window_seconds: 60.0
                }]
            );
        }
    }

    #[test]
    fn ranks_that_wait_alike_or_briefly_are_not_worth_a_word() {
        for waited in [[3.0, 3.0], [0.0, 1.9], [0.0, 0.0]] {
            let mut pace = StragglerDetector::new(2);
            assert!(
                (0..20).all(|_| pace.record_waits(waited.into_iter(), 10.0).is_none()),
                "{waited:?}"
            );
        }

        assert_eq!(
            StragglerDetector::new(1).record_waits([9.0].into_iter(), 99.0),
            None
        );
    }
}
