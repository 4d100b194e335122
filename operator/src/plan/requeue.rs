//! When a run is reconciled again if nothing triggers it before. Pure.
//!
//! Watches trigger a run whose Jobs or pods change, the poller one whose trainer reports, and another run
//! those that reference it. What is left are deadlines, and triggers that were lost.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use crate::{
    observed::{JobState, ObservedState, WorkerState},
    phase::Phase,
    recorded_status::RecordedStatus,
    resolved_run::ResolvedRun,
    time,
};

/// Interval of a run that waits for another object, for a queue or for its user.
const RESTING_INTERVAL: Duration = Duration::from_secs(300);
/// Interval of a run whose pods run, or are pending for a reason that may last.
const WATCHED_INTERVAL: Duration = Duration::from_secs(60);
/// Interval of a run in transition, whose next step may depend on nothing but the time.
const TRANSITION_INTERVAL: Duration = Duration::from_secs(5);

/// Interval of a run with an undecided gate, after its end.
pub(super) fn gate_interval(uid: &str) -> Duration {
    spread_interval(RESTING_INTERVAL, uid)
}

/// Interval of a run in this phase, and not longer than to its next deadline.
pub(super) fn requeue_interval(
    phase: &Phase,
    resolved: &ResolvedRun,
    recorded: &RecordedStatus,
    observed: &ObservedState,
    uid: &str,
) -> Duration {
    let interval = phase_interval(phase, recorded, observed);
    if interval == TRANSITION_INTERVAL {
        return interval;
    }

    let interval = spread_interval(interval, uid);
    time_to_deadline(resolved, recorded, observed).map_or(interval, |left| left.min(interval))
}

fn phase_interval(phase: &Phase, recorded: &RecordedStatus, observed: &ObservedState) -> Duration {
    let terminating = || {
        observed
            .workers
            .iter()
            .any(|pod| pod.is_alive(observed.now))
    };
    match phase {
        Phase::Suspended(_) if !terminating() => RESTING_INTERVAL,
        Phase::Waiting(cause) => match cause.reason {
            "Queued"
            | "TrainingMissing"
            | "TrainingNotComplete"
            | "TrainingFailed"
            | "NoCheckpoint"
            | "WaitingForCheckpoint" => RESTING_INTERVAL,
            "Unschedulable" | "ImagePullFailed" | "CredentialsMissing" | "ContainerRefused"
            | "NoPods" => WATCHED_INTERVAL,
            _ => TRANSITION_INTERVAL,
        },
        Phase::Running(_) if all_workers_run(recorded, observed) => WATCHED_INTERVAL,
        _ => TRANSITION_INTERVAL,
    }
}

/// Whether no worker has ended or is being deleted: what follows from that depends on the time.
fn all_workers_run(recorded: &RecordedStatus, observed: &ObservedState) -> bool {
    let stage = recorded
        .current_stage()
        .and_then(|index| recorded.stages.get(index));

    let job = stage.and_then(|stage| observed.newest_job(&stage.name));
    job.is_some_and(|job| {
        observed
            .workers_of(job)
            .iter()
            .all(|worker| worker.state == WorkerState::Running && worker.ends_by.is_none())
    })
}

/// Time after which the run or the start of its pods takes too long.
fn time_to_deadline(
    resolved: &ResolvedRun,
    recorded: &RecordedStatus,
    observed: &ObservedState,
) -> Option<Duration> {
    let policy = &resolved.policy;
    let limit = policy.deadline_seconds.filter(|_| !policy.suspend);
    let started = recorded.started_at.as_deref();
    let of_run = limit
        .zip(started)
        .map(|(limit, started)| limit - time::seconds_since(started, observed.now));

    let jobs = observed.jobs.iter();
    let active = jobs.filter(|job| job.state == JobState::Active && !job.queued);
    let of_start = active.map(|job| {
        let waited = observed.now.as_second() - job.started.as_second();
        policy.start_deadline_seconds - waited
    });

    // Pods that started in time have a deadline that is over.
    let seconds = of_run.into_iter().chain(of_start).filter(|left| *left >= 0);
    // A deadline is missed after its last second.
    let seconds = seconds.map(|left| left.unsigned_abs().saturating_add(1));
    seconds.min().map(Duration::from_secs)
}

/// Up to a quarter longer, by the UID of the run: runs that were created or triggered together do not come
/// back together.
fn spread_interval(interval: Duration, uid: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    let extra = interval.as_secs() / 4;
    let share = hasher.finish() % extra.max(1);
    interval + Duration::from_secs(share)
}

#[cfg(test)]
mod tests;
