//! Finds the rank that the others wait for. Pure: what was waited and the time are arguments.

/// Seconds over which is judged, and between two warnings.
const WINDOW: f64 = 60.0;
/// The share of them that the others wait before it is worth a word.
const WORTH_A_WORD: f64 = 0.2;

/// Seconds that each rank waited for others, over a while.
#[derive(Clone, Debug)]
pub struct Pace {
    waited: Vec<f64>,
    seconds: f64,
}

/// A rank that holds up the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slowest {
    /// Its number.
    pub rank: usize,
    /// How long the others waited more than it did, on average.
    pub waited: f64,
    /// In how many seconds.
    pub of: f64,
}

impl Pace {
    /// Of so many ranks, none of which has waited yet.
    pub fn new(ranks: usize) -> Self {
        Self {
            waited: vec![0.0; ranks],
            seconds: 0.0,
        }
    }

    /// Adds what each rank waited in some seconds; at the end of a window, who was slow in it.
    pub fn add(&mut self, waited: impl Iterator<Item = f64>, seconds: f64) -> Option<Slowest> {
        self.waited
            .iter_mut()
            .zip(waited)
            .for_each(|(sum, waited)| *sum += waited);

        self.seconds += seconds;
        if self.seconds < WINDOW {
            return None;
        }

        let window = std::mem::replace(self, Self::new(self.waited.len()));
        window
            .slowest()
            .filter(|slowest| slowest.waited >= WORTH_A_WORD * slowest.of)
    }

    /// The rank that waited least is the one that was waited for.
    fn slowest(&self) -> Option<Slowest> {
        let (rank, least) = self
            .waited
            .iter()
            .enumerate()
            .min_by(|a, b| a.1.total_cmp(b.1))?;

        let others = self
            .waited
            .len()
            .checked_sub(1)
            .filter(|&others| others > 0)? as f64;

        let waited = (self.waited.iter().sum::<f64>() - least) / others - least;
        Some(Slowest {
            rank,
            waited,
            of: self.seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_that_holds_up_the_others_is_named_once_a_window() {
        let mut pace = Pace::new(3);
        for _ in 0..2 {
            let told: Vec<_> = (0..6)
                .filter_map(|_| pace.add([3.0, 0.5, 4.0].into_iter(), 10.0))
                .collect();

            assert_eq!(
                told,
                [Slowest {
                    rank: 1,
                    waited: 18.0,
                    of: 60.0
                }]
            );
        }
    }

    #[test]
    fn ranks_that_wait_alike_or_briefly_are_not_worth_a_word() {
        for waited in [[3.0, 3.0], [0.0, 1.9], [0.0, 0.0]] {
            let mut pace = Pace::new(2);
            assert!(
                (0..20).all(|_| pace.add(waited.into_iter(), 10.0).is_none()),
                "{waited:?}"
            );
        }

        assert_eq!(Pace::new(1).add([9.0].into_iter(), 99.0), None);
    }
}
