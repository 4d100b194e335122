//! What the current stage needs next. Pure.
//!
//! An attempt begins only when the end of the one before is on record, so that a lost write loses no
//! count and makes no second set of pods.

use cnclip_crds::training::{StageState, StageStatus};

use super::failure::{self, AttemptFailure, FailureClass};
use crate::{
    observed::{JobState, ObservedJob, ObservedState},
    recorded_status::RecordedStatus,
    resolved_run::{ResolvedRun, StatusReason},
    time,
};

/// What the current stage needs next.
#[derive(Clone, Debug, PartialEq)]
pub enum StageAction {
    /// Nothing but time.
    Wait(StatusReason),
    /// No pods, because the user holds the run back.
    Suspend,
    /// Pods for this attempt.
    Start(i32),
    /// To be looked at: its pods are being made or at work.
    Watch(ObservedJob),
    /// To be put on record as done.
    Succeed,
    /// To be put on record as failed, once.
    Fail(AttemptFailure),
}

/// What the stage needs next, given what is on record and what was seen.
pub fn next_action(
    work: &ResolvedRun,
    ledger: &RecordedStatus,
    stage: &StageStatus,
    seen: &ObservedState,
) -> StageAction {
    let job = seen
        .newest_job(&stage.name)
        .filter(|job| job.attempt >= stage.attempt);

    if job.is_some_and(|job| job.state == JobState::Complete) {
        return StageAction::Succeed;
    }

    if work.suspend {
        return StageAction::Suspend;
    }

    if let Some(job) = job
        && !ledger.has_failure_of_attempt(&stage.name, job.attempt)
    {
        let workers = seen.workers_of(job);
        let failure = failure::attempt_failure(job, &workers, seen.now);
        return failure.map_or_else(|| StageAction::Watch(job.clone()), StageAction::Fail);
    }

    if job.is_none()
        && was_active(stage)
        && !ledger.has_failure_of_attempt(&stage.name, stage.attempt)
    {
        let message = format!(
            "the Job of stage {}, attempt {} is gone",
            stage.name, stage.attempt
        );

        return StageAction::Fail(AttemptFailure::new(FailureClass::JobDeleted, message));
    }

    blocking_reason(work, ledger, stage, seen)
        .map_or(StageAction::Start(stage.attempt + 1), StageAction::Wait)
}

fn was_active(stage: &StageStatus) -> bool {
    matches!(stage.state, StageState::Starting | StageState::Running)
}

/// What must pass before the next attempt.
fn blocking_reason(
    work: &ResolvedRun,
    ledger: &RecordedStatus,
    stage: &StageStatus,
    seen: &ObservedState,
) -> Option<StatusReason> {
    if let Some(cause) = &work.blocked_on {
        return Some(cause.clone());
    }

    let next = |job: &&ObservedJob| job.stage == stage.name && job.attempt == stage.attempt + 1;
    if let Some(job) = seen.jobs.iter().find(next) {
        let message = format!(
            "an old Job with the name of attempt {} is still going away",
            job.attempt
        );

        return Some(StatusReason::new("Ending", message));
    }

    if let Some(living) = seen.workers.iter().find(|worker| worker.is_alive(seen.now)) {
        let message = format!(
            "pod {} of attempt {} is still ending",
            living.name, living.attempt
        );

        return Some(StatusReason::new("Ending", message));
    }

    let failure = ledger.last_failure.as_ref()?;
    let wait = failure::backoff_seconds(&ledger.restarts);
    let waited = time::seconds_since(&failure.at, seen.now);
    (ledger.has_failure_of_attempt(&stage.name, stage.attempt) && waited < wait).then(|| {
        let message = format!(
            "attempt {} of stage {} begins {} after {} ({})",
            stage.attempt + 1,
            stage.name,
            time::format_duration(wait),
            failure.at,
            failure.class
        );

        StatusReason::new("RestartPending", message)
    })
}

#[cfg(test)]
mod tests {
    use cnclip_crds::common::LastFailure;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::{
        cluster_fixtures::{active_job, ended_state, job_in, time_at, worker_pod},
        manifest_fixtures,
        observed::{WorkerPod, WorkerState},
        run::RunResource,
    };

    const RUNNING: WorkerState = WorkerState::Running;

    fn stage(state: StageState, attempt: i32) -> StageStatus {
        StageStatus {
            name: "align".to_owned(),
            state,
            attempt,
            ..StageStatus::default()
        }
    }

    fn failed_at(time: Timestamp, attempt: i32) -> Option<LastFailure> {
        Some(LastFailure {
            class: "Killed".to_owned(),
            stage: "align".to_owned(),
            attempt,
            at: time::to_rfc3339(time),
            ..LastFailure::default()
        })
    }

    fn seen(seconds: i64, jobs: Vec<ObservedJob>, states: &[(i32, WorkerState)]) -> ObservedState {
        let workers = states
            .iter()
            .map(|(attempt, state)| worker_pod("align", *attempt, state.clone()));

        ObservedState {
            now: time_at(seconds),
            jobs,
            workers: workers.collect(),
            ..ObservedState::default()
        }
    }

    /// One row a rule. Read this table to know how a stage goes on.
    #[test]
    fn a_stage_goes_on_by_what_is_on_record_and_what_is_seen() {
        use StageState::{Pending, Running, Starting, Suspended};
        let complete = || job_in("align", 1, JobState::Complete);
        let lost = || job_in("align", 1, JobState::Failed("why".to_owned()));
        let deleting = || ObservedJob {
            deleting: true,
            ..active_job("align", 1)
        };

        let foreign = || ObservedJob {
            foreign: true,
            uid: "old".to_owned(),
            ..job_in("align", 1, JobState::Complete)
        };

        let rows: [(&str, StageStatus, Option<LastFailure>, ObservedState, &str); 18] = [
            (
                "a new run, while the Job of a deleted one of its name is there",
                stage(Pending, 0),
                None,
                seen(0, vec![foreign()], &[]),
                "wait Ending",
            ),
            (
                "at work, while a pod of a deleted run of its name ends badly",
                stage(Running, 1),
                None,
                ObservedState {
                    workers: vec![WorkerPod {
                        job_uid: "old".to_owned(),
                        ..worker_pod("align", 1, ended_state(143, "Error", ""))
                    }],
                    ..seen(0, vec![active_job("align", 1)], &[])
                },
                "watch 1",
            ),
            (
                "a new run",
                stage(Pending, 0),
                None,
                seen(0, vec![], &[]),
                "start 1",
            ),
            (
                "its Job was made but never put on record",
                stage(Pending, 0),
                None,
                seen(0, vec![active_job("align", 1)], &[]),
                "watch 1",
            ),
            (
                "its pods are at work",
                stage(Running, 1),
                None,
                seen(0, vec![active_job("align", 1)], &[(1, RUNNING)]),
                "watch 1",
            ),
            (
                "its Job is complete",
                stage(Running, 1),
                None,
                seen(0, vec![complete()], &[]),
                "succeed",
            ),
            (
                "its pod was killed",
                stage(Running, 1),
                None,
                seen(
                    0,
                    vec![active_job("align", 1)],
                    &[(1, ended_state(137, "Error", ""))],
                ),
                "fail Killed",
            ),
            (
                "its pods are gone",
                stage(Running, 1),
                None,
                seen(0, vec![lost()], &[]),
                "fail PodDeleted",
            ),
            (
                "its Job is gone",
                stage(Running, 1),
                None,
                seen(0, vec![], &[]),
                "fail JobDeleted",
            ),
            (
                "its Job is gone before it began",
                stage(Starting, 1),
                None,
                seen(0, vec![], &[]),
                "fail JobDeleted",
            ),
            (
                "its Job is being deleted",
                stage(Running, 1),
                None,
                seen(0, vec![deleting()], &[(1, RUNNING)]),
                "fail JobDeleted",
            ),
            (
                "a failure is on record, a moment ago",
                stage(Starting, 1),
                failed_at(time_at(0), 1),
                seen(1, vec![lost()], &[]),
                "wait RestartPending",
            ),
            (
                "a failure is on record, long ago",
                stage(Starting, 1),
                failed_at(time_at(0), 1),
                seen(2, vec![lost()], &[]),
                "start 2",
            ),
            (
                "a failure is on record, its pod still ends",
                stage(Starting, 1),
                failed_at(time_at(0), 1),
                seen(9, vec![], &[(1, RUNNING)]),
                "wait Ending",
            ),
            (
                "the next attempt was made but never put on record",
                stage(Starting, 1),
                failed_at(time_at(0), 1),
                seen(9, vec![lost(), active_job("align", 2)], &[]),
                "watch 2",
            ),
            (
                "an old failure, a new one",
                stage(Running, 2),
                failed_at(time_at(0), 1),
                seen(
                    9,
                    vec![active_job("align", 2)],
                    &[(2, ended_state(1, "Error", ""))],
                ),
                "fail Bug",
            ),
            (
                "resumed, with nothing left of the last attempt",
                stage(Suspended, 3),
                None,
                seen(9, vec![], &[]),
                "start 4",
            ),
            (
                "resumed, while the last attempt still ends",
                stage(Suspended, 1),
                None,
                seen(9, vec![], &[(1, RUNNING)]),
                "wait Ending",
            ),
        ];

        let work = manifest_fixtures::sample_training()
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        for (name, stage, last_failure, seen, expected) in rows {
            let ledger = RecordedStatus {
                last_failure,
                ..RecordedStatus::default()
            };

            assert_eq!(
                in_short(&next_action(&work, &ledger, &stage, &seen)),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn a_run_held_back_has_no_pods_unless_its_work_is_done() {
        let mut work = manifest_fixtures::sample_training()
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        work.suspend = true;
        let running = stage(StageState::Running, 1);
        let rows = [
            (
                seen(0, vec![active_job("align", 1)], &[(1, RUNNING)]),
                "hold back",
            ),
            (seen(0, vec![], &[]), "hold back"),
            (
                seen(
                    0,
                    vec![active_job("align", 1)],
                    &[(1, ended_state(75, "Error", ""))],
                ),
                "hold back",
            ),
            (
                seen(0, vec![job_in("align", 1, JobState::Complete)], &[]),
                "succeed",
            ),
        ];

        for (seen, expected) in rows {
            let step = next_action(&work, &RecordedStatus::default(), &running, &seen);
            assert_eq!(in_short(&step), expected, "{seen:?}");
        }
    }

    #[test]
    fn a_run_that_waits_for_another_makes_no_pods() {
        let mut work = manifest_fixtures::sample_training()
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        work.blocked_on = Some(StatusReason::new("TrainingMissing", ""));
        let step = next_action(
            &work,
            &RecordedStatus::default(),
            &stage(StageState::Pending, 0),
            &seen(0, vec![], &[]),
        );

        assert_eq!(in_short(&step), "wait TrainingMissing");
    }

    fn in_short(step: &StageAction) -> String {
        match step {
            StageAction::Wait(cause) => format!("wait {}", cause.reason),
            StageAction::Suspend => "hold back".to_owned(),
            StageAction::Start(attempt) => format!("start {attempt}"),
            StageAction::Watch(job) => format!("watch {}", job.attempt),
            StageAction::Succeed => "succeed".to_owned(),
            StageAction::Fail(failure) => format!("fail {}", failure.class.name()),
        }
    }
}
