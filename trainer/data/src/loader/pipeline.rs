//! Does numbered work on threads, a bounded distance ahead, and gives the results in order.
//!
//! One lock and one condition variable, no channels: the results come in any order, and the reader needs them in
//! the order of the numbers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use cnclip_compute::sync::{ignore_poison, lock_ignoring_poison};

use crate::error::{Error, Result};

/// How often a reader that waits asks whether it still has to.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Results of numbered work, in the order of the numbers.
///
/// # Guarantees
/// Work that panics is an error in its turn, so the reader waits no longer than the work takes.
#[derive(Debug)]
pub(super) struct PrefetchPipeline<T> {
    shared: Arc<PipelineShared<T>>,
}

#[derive(Debug)]
struct PipelineShared<T> {
    state: Mutex<PipelineState<T>>,
    changed: Condvar,
    max_ahead: u64,
}

#[derive(Debug)]
struct PipelineState<T> {
    /// Numbers that no thread has begun.
    pending: Range<u64>,
    /// The number that is read next.
    next: u64,
    /// Results that came before their turn: at most `max_ahead`.
    completed: BTreeMap<u64, Result<T>>,
    stopped: bool,
}

impl<T: Send + 'static> PrefetchPipeline<T> {
    /// Starts `threads` threads that do `work` for each of `numbers`, at most `ahead` of them before
    /// the reader.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn spawn_workers(
        name: &str,
        numbers: Range<u64>,
        ahead: u64,
        threads: usize,
        work: impl Fn(u64) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let next = numbers.start;
        let state = PipelineState {
            pending: numbers,
            next,
            completed: BTreeMap::new(),
            stopped: false,
        };

        let state = Mutex::new(state);
        let changed = Condvar::new();
        let pipeline = Self {
            shared: Arc::new(PipelineShared {
                state,
                changed,
                max_ahead: ahead.max(1),
            }),
        };

        let work = Arc::new(work);
        for _ in 0..threads.max(1) {
            let shared = pipeline.shared.clone();
            let work = work.clone();
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || shared.run_worker(work.as_ref()))
                .map_err(|error| Error::Bug(format!("no thread to {name}: {error}")))?;
        }

        Ok(pipeline)
    }

    /// The next result; `None` after the last.
    #[cfg(test)]
    fn next_result(&mut self) -> Option<Result<T>> {
        match self.next_result_unless(&|| false) {
            PipelineResult::Next(result) => Some(result),
            PipelineResult::End | PipelineResult::Interrupted => None,
        }
    }

    /// The next result, unless `interrupted` says while it is waited for that it is not needed any more.
    pub(super) fn next_result_unless(
        &mut self,
        interrupted: &dyn Fn() -> bool,
    ) -> PipelineResult<T> {
        let mut state = self.shared.lock_state();
        loop {
            let number = state.next;
            if let Some(result) = state.completed.remove(&number) {
                state.next += 1;
                // One step of the reader lets one more number begin.
                self.shared.changed.notify_all();
                return PipelineResult::Next(result);
            }

            if state.next == state.pending.end {
                return PipelineResult::End;
            }

            if interrupted() {
                return PipelineResult::Interrupted;
            }

            let waited = self.shared.changed.wait_timeout(state, POLL_INTERVAL);
            state = ignore_poison(waited).0;
        }
    }
}

/// What came of waiting for a result.
pub(super) enum PipelineResult<T> {
    /// The result.
    Next(Result<T>),
    /// There are no more.
    End,
    /// It was not waited for any longer.
    Interrupted,
}

impl<T> Drop for PrefetchPipeline<T> {
    /// Stops the threads without joining them: one that waits for a store ends when that answers, which may
    /// take half a minute, and a run that fails should not.
    fn drop(&mut self) {
        self.shared.lock_state().stopped = true;
        self.shared.changed.notify_all();
    }
}

impl<T> PipelineShared<T> {
    fn lock_state(&self) -> MutexGuard<'_, PipelineState<T>> {
        // Work runs outside the lock, so a panic cannot leave the state half changed.
        lock_ignoring_poison(&self.state)
    }

    fn wait_for_change<'a>(
        &self,
        state: MutexGuard<'a, PipelineState<T>>,
    ) -> MutexGuard<'a, PipelineState<T>> {
        ignore_poison(self.changed.wait(state))
    }

    fn run_worker(&self, work: &impl Fn(u64) -> Result<T>) {
        while let Some(number) = self.claim_next() {
            // A thread that died would leave the reader waiting for its number for ever.
            let result = catch_unwind(AssertUnwindSafe(|| work(number)))
                .unwrap_or_else(|panic| Err(Error::Bug(panic_message(panic.as_ref()))));
            self.lock_state().completed.insert(number, result);
            self.changed.notify_all();
        }
    }

    /// The next number to work on, as soon as the reader is near enough.
    fn claim_next(&self) -> Option<u64> {
        let mut state = self.lock_state();
        loop {
            if state.stopped || state.pending.is_empty() {
                return None;
            }

            if state.pending.start < state.next + self.max_ahead {
                let number = state.pending.start;
                state.pending.start += 1;
                return Some(number);
            }

            state = self.wait_for_change(state);
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");

    format!("a loader thread panicked: {text}")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn all<T: Send + 'static>(mut pipeline: PrefetchPipeline<T>) -> Vec<Result<T>> {
        std::iter::from_fn(|| pipeline.next_result()).collect()
    }

    #[test]
    fn results_come_in_order_from_any_number_of_threads() {
        for threads in [1, 3, 8] {
            let work = |number: u64| {
                // Later numbers finish first.
                for spin in 0..(200 - number) * 50 {
                    std::hint::black_box(spin);
                }

                Ok(number)
            };

            let results =
                all(PrefetchPipeline::spawn_workers("test", 5..200, 16, threads, work).unwrap());
            let numbers: Vec<_> = results.into_iter().map(Result::unwrap).collect();
            assert_eq!(numbers, (5..200).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_and_an_error_come_in_their_turn() {
        let work = |number| match number {
            1 => panic!("out of luck"),
            2 => Err(Error::Data("bad".into())),
            _ => Ok(number),
        };

        let results = all(PrefetchPipeline::spawn_workers("test", 0..4, 4, 2, work).unwrap());
        let found: Vec<_> = results
            .iter()
            .map(|r| r.as_ref().map_err(|error| error.exit().exit_code()))
            .collect();

        assert_eq!(found, [Ok(&0), Err(70), Err(65), Ok(&3)]);
        assert!(
            results[1]
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("out of luck")
        );
    }

    #[test]
    fn the_work_stays_a_bounded_distance_ahead_of_the_reader() {
        let begun = Arc::new(AtomicU64::new(0));
        let count = begun.clone();
        let work = move |_| Ok(count.fetch_add(1, Ordering::SeqCst));
        let mut pipeline = PrefetchPipeline::spawn_workers("test", 0..1000, 3, 4, work).unwrap();

        for read in 1..=1000 {
            pipeline.next_result().unwrap().unwrap();
            assert!(begun.load(Ordering::SeqCst) <= read + 3);
        }

        assert!(pipeline.next_result().is_none());
    }
}
