//! Notices that the main thread of a rank makes no progress: a device that never finishes, a file system that does not
//! answer, a deadlock. Decides when that is so; what happens then is said by the caller.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use cnclip_compute::sync::{ignore_poison, lock_ignoring_poison};
use cnclip_distributed::Communicator;

use crate::error::{Error, Result};

/// What the main thread of a rank does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunPhase {
    /// Waits for its part of a batch.
    Load,
    /// Computes a step.
    Step,
    /// Measures recall.
    Validate,
    /// Copies the state, and waits for the checkpoint before.
    Save,
}

/// Seconds in a step before it may count as stuck; 0 switches the watchdog off.
const STUCK_STEP_VARIABLE: &str = "CNCLIP_STUCK_STEP_SECONDS";
const STUCK_STEP: Duration = Duration::from_secs(60);
/// The first steps compile kernels and reserve memory, and how long a step takes is not known yet.
const FIRST_STEPS: Duration = Duration::from_secs(3600);
/// Steps after which their times say something.
const KNOWN_STEPS: usize = 5;
/// Of the newest steps the times are kept.
const MAX_STEP_TIMES: usize = 1000;
/// Longer than an outage of a store that is waited for.
const STORE_WAIT: Duration = Duration::from_secs(50 * 60);
/// A validation that was never measured.
const FIRST_VALIDATION: Duration = Duration::from_secs(2 * 3600);
/// How often the watchdog looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What the main thread writes and the watchdog reads.
#[derive(Debug)]
pub(super) struct Watchdog {
    state: Mutex<WatchedState>,
    done: Condvar,
    stuck_step: Duration,
    /// Ranks wait for each other on devices, where this process cannot see that they wait.
    waits_on_device: bool,
}

#[derive(Debug)]
struct WatchedState {
    phase: RunPhase,
    step: u64,
    /// Counts changes of the phase: a sign of life.
    changes: u64,
    began: Instant,
    step_times: VecDeque<Duration>,
    longest_validation: Duration,
    is_done: bool,
}

/// A main thread that makes no progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StuckRun {
    pub(super) phase: RunPhase,
    pub(super) step: u64,
    pub(super) stuck_for: Duration,
}

impl Watchdog {
    /// # Errors
    /// If the variable is no number.
    pub(super) fn new(waits_on_device: bool) -> Result<Self> {
        let stuck_step = match std::env::var(STUCK_STEP_VARIABLE) {
            Ok(value) if !value.is_empty() => parse_seconds(&value)?,
            _ => STUCK_STEP,
        };

        let state = WatchedState {
            phase: RunPhase::Load,
            step: 0,
            changes: 0,
            began: Instant::now(),
            step_times: VecDeque::new(),
            longest_validation: Duration::ZERO,
            is_done: false,
        };

        Ok(Self {
            state: Mutex::new(state),
            done: Condvar::new(),
            stuck_step,
            waits_on_device,
        })
    }

    /// The main thread begins something else.
    pub(super) fn enter(&self, phase: RunPhase, step: u64) {
        lock_ignoring_poison(&self.state).enter(phase, step, Instant::now());
    }

    /// The main thread ends.
    pub(super) fn finish(&self) {
        lock_ignoring_poison(&self.state).is_done = true;
        self.done.notify_all();
    }

    /// Watches until the main thread ends, or makes no progress: neither another phase nor, while it waits for other
    /// ranks, a sign that it still waits.
    pub(super) fn watch(&self, communicator: &Communicator) -> Option<StuckRun> {
        if self.stuck_step.is_zero() {
            return None;
        }

        let mut seen = (0, 0);
        let mut stuck_for = Duration::ZERO;
        let mut last_look = Instant::now();

        let mut state = lock_ignoring_poison(&self.state);
        loop {
            state = ignore_poison(self.done.wait_timeout(state, LOOK_INTERVAL)).0;
            // A process that was stopped as a whole, or a machine that slept, did not look meanwhile.
            let passed = last_look.elapsed().min(2 * LOOK_INTERVAL);
            last_look = Instant::now();

            if state.is_done || communicator.check_peers().is_err() {
                return None;
            }

            let signs = (state.changes, communicator.peer_wait_ticks());
            stuck_for = if signs == seen {
                stuck_for + passed
            } else {
                Duration::ZERO
            };

            seen = signs;
            if stuck_for > state.budget(self.stuck_step, self.waits_on_device) {
                return Some(StuckRun {
                    phase: state.phase,
                    step: state.step,
                    stuck_for,
                });
            }
        }
    }
}

fn parse_seconds(value: &str) -> Result<Duration> {
    value.parse().map(Duration::from_secs).map_err(|_| {
        Error::Config(format!(
            "{STUCK_STEP_VARIABLE} must be a number of seconds, found {value:?}"
        ))
    })
}

/// Ends the watch when a rank ends, also by a panic.
pub(super) struct WatchGuard<'a>(pub(super) &'a Watchdog);

impl Drop for WatchGuard<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl RunPhase {
    /// What a rank did that made no progress.
    fn describe(self) -> &'static str {
        match self {
            Self::Load => "waited for a batch",
            Self::Step => "computed",
            Self::Validate => "validated",
            Self::Save => "saved its state",
        }
    }
}

impl fmt::Display for StuckRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = self.phase.describe();
        let seconds = self.stuck_for.as_secs();
        write!(
            f,
            "no progress for {seconds} s while it {phase} in step {}",
            self.step
        )
    }
}

impl WatchedState {
    fn enter(&mut self, phase: RunPhase, step: u64, now: Instant) {
        let elapsed = now - self.began;
        match self.phase {
            RunPhase::Step => {
                if self.step_times.len() == MAX_STEP_TIMES {
                    self.step_times.pop_front();
                }

                self.step_times.push_back(elapsed);
            }
            RunPhase::Validate => {
                self.longest_validation = self.longest_validation.max(elapsed);
            }
            RunPhase::Load | RunPhase::Save => {}
        }

        self.phase = phase;
        self.step = step;
        self.began = now;
        self.changes += 1;
    }

    /// How long a phase may show no sign of life.
    fn budget(&self, stuck_step: Duration, waits_on_device: bool) -> Duration {
        match self.phase {
            RunPhase::Load | RunPhase::Save => STORE_WAIT,
            RunPhase::Step if waits_on_device => STORE_WAIT,
            RunPhase::Step if self.step_times.len() < KNOWN_STEPS => FIRST_STEPS,
            RunPhase::Step => stuck_step.max(3 * self.slow_step()),
            RunPhase::Validate if self.longest_validation.is_zero() => FIRST_VALIDATION,
            RunPhase::Validate => STORE_WAIT.max(3 * self.longest_validation),
        }
    }

    /// The 99th percentile of the times of steps.
    fn slow_step(&self) -> Duration {
        let mut times: Vec<Duration> = self.step_times.iter().copied().collect();
        times.sort_unstable();
        let rank = (times.len() * 99).div_ceil(100);
        times
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_after(step_times: &[u64]) -> WatchedState {
        let began = Instant::now();
        let mut state = WatchedState {
            phase: RunPhase::Load,
            step: 0,
            changes: 0,
            began,
            step_times: VecDeque::new(),
            longest_validation: Duration::ZERO,
            is_done: false,
        };

        let mut now = began;
        for (step, seconds) in (0..).zip(step_times) {
            state.enter(RunPhase::Step, step, now);
            now += Duration::from_secs(*seconds);
            state.enter(RunPhase::Load, step + 1, now);
        }

        state.enter(RunPhase::Step, step_times.len() as u64, now);
        state
    }

    #[test]
    fn a_step_is_stuck_after_a_minute_or_three_times_a_slow_step() {
        let budget = |times: &[u64]| state_after(times).budget(STUCK_STEP, false).as_secs();
        assert_eq!(budget(&[1; 4]), 3600, "the first steps");
        assert_eq!(budget(&[1; 20]), 60);
        assert_eq!(budget(&[40; 20]), 120);

        // One slow step of two hundred is no slow step.
        let mut times = vec![1; 200];
        times[7] = 500;
        assert_eq!(budget(&times), 60);
        // The newest thousand count.
        assert_eq!(
            budget(&[[40; 200].to_vec(), [1; 1000].to_vec()].concat()),
            60
        );
    }

    #[test]
    fn what_waits_for_a_store_or_on_a_device_has_as_long_as_an_outage() {
        let mut state = state_after(&[1; 20]);
        assert_eq!(state.budget(STUCK_STEP, true), STORE_WAIT);
        state.enter(RunPhase::Load, 20, Instant::now());
        assert_eq!(state.budget(STUCK_STEP, false), STORE_WAIT);
        state.enter(RunPhase::Validate, 20, Instant::now());
        assert_eq!(state.budget(STUCK_STEP, false), FIRST_VALIDATION);
        state.longest_validation = Duration::from_secs(3600);
        assert_eq!(state.budget(STUCK_STEP, false).as_secs(), 3 * 3600);
    }
}
