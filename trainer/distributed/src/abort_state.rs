//! Whether a worker of the run has failed: nothing so far, or the first failure, and after that no other.
//! Detects no failure, and ends no process.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use cnclip_compute::sync::lock_ignoring_poison;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The worker that failed, and why. Sent to the other workers as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFailure {
    /// Index of the worker.
    pub worker: usize,
    /// All ranks of the worker, or the one that reported its own failure.
    pub ranks: Range<usize>,
    /// The step of the failed rank, or of the rank that detected the failure.
    pub step: u64,
    /// What is known of why.
    pub cause: FailureCause,
}

/// Why a worker counts as failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureCause {
    /// Its control connection was closed without a reason: the process died.
    ConnectionClosed,
    /// No heartbeat for this many seconds: the process hangs, or the network is gone.
    HeartbeatTimeout(u64),
    /// Heartbeats, but no data around the ring for this many seconds.
    Stuck(u64),
    /// The ring connection to a neighbour broke, and no better reason is known.
    LinkBroken,
    /// It reported an error.
    Reported(String),
}

impl WorkerFailure {
    /// The error that ends every other worker.
    pub fn to_error(&self) -> Error {
        let Self {
            worker,
            ranks,
            step,
            cause,
        } = self;

        let worker = match ranks.len() {
            1 => format!("worker {worker} (rank {})", ranks.start),
            _ => format!(
                "worker {worker} (ranks {} to {})",
                ranks.start,
                ranks.end.saturating_sub(1)
            ),
        };

        let reason = match cause {
            FailureCause::Reported(error) => {
                return Error::WorkerLost(format!("{worker} failed in step {step}: {error}"));
            }
            FailureCause::ConnectionClosed => {
                "its connection was closed without a reason, so its process died".to_string()
            }
            FailureCause::HeartbeatTimeout(seconds) => format!("no heartbeat for {seconds} s"),
            FailureCause::Stuck(seconds) => {
                format!("its neighbour waited {seconds} s for its data")
            }
            FailureCause::LinkBroken => "its connection to its neighbour broke".to_string(),
        };

        Error::WorkerLost(format!(
            "{worker} was lost in step {step}: {reason}. All workers end; run the same command again: a \
             training resumes from its newest checkpoint."
        ))
    }
}

/// Shared by everything in a process that waits for other ranks.
///
/// Its lock is a leaf: its holder takes no other lock and does no I/O, so it may be taken under any
/// other.
#[derive(Debug, Default)]
pub(super) struct AbortState {
    state: Mutex<FirstFailure>,
    changed: Condvar,
    step: AtomicU64,
}

#[derive(Debug, Default)]
struct FirstFailure {
    failure: Option<WorkerFailure>,
    /// All ranks have finished: a connection that closes now is no failure.
    finished: bool,
}

impl AbortState {
    /// Sets the step that this process is at.
    pub(super) fn set_step(&self, step: u64) {
        // Relaxed: the step is a hint in messages, and orders nothing else.
        self.step.store(step, Ordering::Relaxed);
    }

    pub(super) fn current_step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    /// Records a failure, if it is the first; returns whether it is. Later ones are consequences: workers
    /// that end because of the first one close their connections too.
    pub(super) fn record_failure(&self, failure: WorkerFailure) -> bool {
        let mut state = self.lock_state();
        let is_first = state.failure.is_none() && !state.finished;
        if is_first {
            state.failure = Some(failure);
            self.changed.notify_all();
        }

        is_first
    }

    /// From now on no failure is recorded.
    pub(super) fn mark_finished(&self) {
        self.lock_state().finished = true;
    }

    pub(super) fn has_failure(&self) -> bool {
        self.lock_state().failure.is_some()
    }

    /// Whether the failure is one that this rank reported of itself.
    pub(super) fn is_failure_of(&self, rank: usize) -> bool {
        let is_own = |failure: &WorkerFailure| {
            matches!(failure.cause, FailureCause::Reported(_)) && failure.ranks == (rank..rank + 1)
        };

        self.lock_state().failure.as_ref().is_some_and(is_own)
    }

    /// # Errors
    /// Which worker failed, if one has.
    pub(super) fn check_failure(&self) -> Result<(), Error> {
        self.lock_state()
            .failure
            .as_ref()
            .map_or(Ok(()), |failure| Err(failure.to_error()))
    }

    /// Waits until a failure is recorded, but no longer than `timeout`.
    pub(super) fn wait_for_failure(&self, timeout: Duration) {
        let state = self.lock_state();
        // Whichever it was, the caller checks again.
        let _ = self
            .changed
            .wait_timeout_while(state, timeout, |state| state.failure.is_none());
    }

    /// A thread that panicked with the lock held leaves a state that is still valid: every change is one
    /// assignment.
    fn lock_state(&self) -> MutexGuard<'_, FirstFailure> {
        lock_ignoring_poison(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(worker: usize, ranks: Range<usize>, cause: FailureCause) -> WorkerFailure {
        WorkerFailure {
            worker,
            ranks,
            step: 17,
            cause,
        }
    }

    #[test]
    fn a_failure_of_no_rank_has_a_message() {
        // As a peer may send it.
        let error = failure(1, 0..0, FailureCause::LinkBroken).to_error();
        assert!(
            error.to_string().starts_with("worker 1 (ranks 0 to 0)"),
            "{error}"
        );
    }

    #[test]
    fn the_first_failure_is_kept_and_none_after_the_end() {
        let state = AbortState::default();
        state.check_failure().unwrap();
        assert!(state.record_failure(failure(1, 1..2, FailureCause::ConnectionClosed)));
        assert!(!state.record_failure(failure(2, 2..3, FailureCause::HeartbeatTimeout(10))));
        assert!(
            state
                .check_failure()
                .unwrap_err()
                .to_string()
                .starts_with("worker 1 (rank 1) was lost")
        );

        let state = AbortState::default();
        state.mark_finished();
        assert!(!state.record_failure(failure(1, 1..2, FailureCause::ConnectionClosed)));
        state.check_failure().unwrap();
    }

    #[test]
    fn a_failure_names_worker_ranks_step_and_what_to_do() {
        let table = [
            (
                FailureCause::ConnectionClosed,
                "worker 3 (ranks 6 to 7) was lost in step 17: its connection was closed",
            ),
            (
                FailureCause::HeartbeatTimeout(10),
                "no heartbeat for 10 s. All workers end; run the same",
            ),
            (FailureCause::Stuck(9), "its neighbour waited 9 s"),
            (
                FailureCause::LinkBroken,
                "its connection to its neighbour broke",
            ),
            (
                FailureCause::Reported("bad".into()),
                "worker 3 (ranks 6 to 7) failed in step 17: bad",
            ),
        ];

        for (cause, expected) in table {
            let message = failure(3, 6..8, cause).to_error().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
