//! What became of a world: nothing so far, or the first loss, and after that nothing else. Never finds
//! one out, and ends no process.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The worker that is no longer there, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WorkerLost {
    pub(super) worker: usize,
    pub(super) ranks: Range<usize>,
    /// The step that it, or whoever found out, was at.
    pub(super) step: u64,
    pub(super) how: LossCause,
}

/// Why a worker is no longer there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LossCause {
    /// Its connection closed without a word.
    Gone,
    /// It has not been heard of for so many seconds.
    Silent(u64),
    /// It keeps its neighbour waiting for so many seconds.
    Stuck(u64),
    /// Its connection to a neighbour broke, and nobody knows more.
    Cut,
    /// It said why.
    Ended(String),
}

impl WorkerLost {
    fn to_error(&self) -> Error {
        let Self {
            worker,
            ranks,
            step,
            how,
        } = self;

        let who = match ranks.len() {
            1 => format!("worker {worker} (rank {})", ranks.start),
            _ => format!(
                "worker {worker} (ranks {} to {})",
                ranks.start,
                ranks.end - 1
            ),
        };

        let lost = |how: String| {
            Error::Lost(format!(
                "{who} was lost in step {step}: {how}. All workers end; run the same command again: a \
                 training goes on from its newest checkpoint."
            ))
        };

        match how {
            LossCause::Gone => {
                lost("its connection closed without a word, so its process was ended".into())
            }
            LossCause::Silent(seconds) => lost(format!("nothing was heard of it for {seconds} s")),
            LossCause::Stuck(seconds) => lost(format!("its neighbour waited {seconds} s for it")),
            LossCause::Cut => lost("its connection to its neighbour broke".into()),
            LossCause::Ended(why) => Error::Lost(format!("{who} ended in step {step}: {why}")),
        }
    }
}

/// Shared by everything in a process that has to do with other ranks.
#[derive(Debug, Default)]
pub(super) struct AbortState {
    state: Mutex<FirstLoss>,
    changed: Condvar,
    step: AtomicU64,
}

#[derive(Debug, Default)]
struct FirstLoss {
    loss: Option<WorkerLost>,
    /// All is done: who leaves now is not lost.
    finished: bool,
}

impl AbortState {
    /// The step that this process is at.
    pub(super) fn set_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    pub(super) fn current_step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    /// Keeps a loss, if it is the first; says whether it is.
    pub(super) fn record_loss(&self, loss: WorkerLost) -> bool {
        let mut state = self.lock_state();
        let first = state.loss.is_none() && !state.finished;
        if first {
            state.loss = Some(loss);
            self.changed.notify_all();
        }

        first
    }

    /// From now on nobody is missed.
    pub(super) fn mark_finished(&self) {
        self.lock_state().finished = true;
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lock_state().loss.is_some()
    }

    /// Whether it is this rank that was lost, and said why.
    pub(super) fn is_own_failure(&self, rank: usize) -> bool {
        let own = |loss: &WorkerLost| {
            matches!(loss.how, LossCause::Ended(_)) && loss.ranks == (rank..rank + 1)
        };
        self.lock_state().loss.as_ref().is_some_and(own)
    }

    /// # Errors
    /// Who was lost, if anybody was.
    pub(super) fn check_lost(&self) -> Result<(), Error> {
        self.lock_state()
            .loss
            .as_ref()
            .map_or(Ok(()), |loss| Err(loss.to_error()))
    }

    /// Waits until a loss is known, but not for ever.
    pub(super) fn wait_for_loss(&self, most: Duration) {
        let state = self.lock_state();
        // Whatever the outcome: the caller looks.
        let _ = self
            .changed
            .wait_timeout_while(state, most, |state| state.loss.is_none());
    }

    fn lock_state(&self) -> MutexGuard<'_, FirstLoss> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(worker: usize, ranks: Range<usize>, how: LossCause) -> WorkerLost {
        WorkerLost {
            worker,
            ranks,
            step: 17,
            how,
        }
    }

    #[test]
    fn the_first_loss_is_kept_and_none_after_the_end() {
        let fate = AbortState::default();
        fate.check_lost().unwrap();
        assert!(fate.record_loss(loss(1, 1..2, LossCause::Gone)));
        assert!(!fate.record_loss(loss(2, 2..3, LossCause::Silent(10))));
        assert!(
            fate.check_lost()
                .unwrap_err()
                .to_string()
                .starts_with("worker 1 (rank 1) was lost")
        );

        let fate = AbortState::default();
        fate.mark_finished();
        assert!(!fate.record_loss(loss(1, 1..2, LossCause::Gone)));
        fate.check_lost().unwrap();
    }

    #[test]
    fn a_loss_names_worker_ranks_step_and_what_to_do() {
        let table = [
            (
                LossCause::Gone,
                "worker 3 (ranks 6 to 7) was lost in step 17: its connection closed",
            ),
            (
                LossCause::Silent(10),
                "nothing was heard of it for 10 s. All workers end; run the same",
            ),
            (LossCause::Stuck(9), "its neighbour waited 9 s"),
            (LossCause::Cut, "its connection to its neighbour broke"),
            (
                LossCause::Ended("bad".into()),
                "worker 3 (ranks 6 to 7) ended in step 17: bad",
            ),
        ];

        for (how, expected) in table {
            let told = loss(3, 6..8, how).to_error().to_string();
            assert!(told.contains(expected), "{told}");
        }
    }
}
