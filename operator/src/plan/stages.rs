//! State machine of a stage: selects the next action. Pure.
//!
//! An attempt is started only after the end of the previous attempt is recorded in the status, so that a lost
//! status update neither loses a restart count nor creates a second set of pods.

use cnclip_crds::training::{StageState, StageStatus};
use k8s_openapi::jiff::Timestamp;

use super::failure::{self, AttemptFailure, FailureClass};
use crate::{
    observed::{JobState, ObservedJob, ObservedState, WorkerPod},
    recorded_status::RecordedStatus,
    resolved_run::{ResolvedRun, StatusReason},
    time,
};

/// Next action of the current stage.
#[derive(Clone, Debug, PartialEq)]
pub enum StageAction {
    /// Wait, for this reason.
    Wait(StatusReason),
    /// Delete the pods: the run is suspended.
    Suspend,
    /// Create the objects of this attempt.
    Start(i32),
    /// Monitor this Job, whose pods are pending or running.
    Watch(ObservedJob),
    /// Record the stage as succeeded.
    Succeed,
    /// Record the attempt as failed.
    Fail(AttemptFailure),
}

/// Selects the next action from the recorded status and the observed state.
pub fn next_action(
    resolved: &ResolvedRun,
    recorded: &RecordedStatus,
    stage: &StageStatus,
    observed: &ObservedState,
) -> StageAction {
    let job = observed
        .newest_job(&stage.name)
        // Older Jobs are kept for their logs only. A newer one was created before a status update
        // was lost.
        .filter(|job| job.attempt >= stage.attempt);

    if job.is_some_and(|job| is_complete(job, resolved, observed)) {
        return StageAction::Succeed;
    }

    // Checked after completion: a stage that is done stays done, also if the run was suspended meanwhile.
    if resolved.policy.suspend {
        return StageAction::Suspend;
    }

    if let Some(job) = job
        && !recorded.has_failure_of_attempt(&stage.name, job.attempt)
    {
        let workers = observed.workers_of(job);
        let failure = failure::attempt_failure(job, &workers, observed.now);
        return failure.map_or_else(|| StageAction::Watch(job.clone()), StageAction::Fail);
    }

    // Counted as a restart, so that something that keeps deleting the Job exhausts the retry limit.
    if job.is_none()
        && was_active(stage)
        && !recorded.has_failure_of_attempt(&stage.name, stage.attempt)
    {
        let message = format!(
            "the Job of stage {}, attempt {} is gone",
            stage.name, stage.attempt
        );

        return StageAction::Fail(AttemptFailure::new(FailureClass::JobDeleted, message));
    }

    blocking_reason(resolved, recorded, stage, observed)
        .map_or(StageAction::Start(stage.attempt + 1), StageAction::Wait)
}

/// Whether the Job is complete, or would be but for containers that were injected into its pods: the Job
/// controller waits for those.
fn is_complete(job: &ObservedJob, resolved: &ResolvedRun, observed: &ObservedState) -> bool {
    // Sidecars that end with the trainer need a moment to do so.
    const SIDECAR_GRACE_SECONDS: i64 = 30;
    if job.state != JobState::Active {
        return job.state == JobState::Complete;
    }

    let waited = |worker: &WorkerPod| {
        let ended = worker.ended_at.map_or(i64::MAX, Timestamp::as_second);
        observed.now.as_second().saturating_sub(ended) >= SIDECAR_GRACE_SECONDS
    };

    let workers = observed.workers_of(job);
    workers.len() == resolved.workers.replicas as usize
        && workers
            .iter()
            .all(|worker| worker.has_succeeded() && waited(worker))
}

fn was_active(stage: &StageStatus) -> bool {
    matches!(stage.state, StageState::Starting | StageState::Running)
}

/// Why the next attempt cannot be started yet.
fn blocking_reason(
    resolved: &ResolvedRun,
    recorded: &RecordedStatus,
    stage: &StageStatus,
    observed: &ObservedState,
) -> Option<StatusReason> {
    if let Some(cause) = &resolved.blocked_on {
        return Some(cause.clone());
    }

    // The name of an attempt's Job is fixed, so the next attempt must wait until a Job of that name, such as
    // that of a deleted run of the same name, is garbage collected.
    let next = |job: &&ObservedJob| job.stage == stage.name && job.attempt == stage.attempt + 1;
    if let Some(job) = observed.jobs.iter().find(next) {
        let message = format!(
            "an old Job with the name of attempt {} is still being deleted",
            job.attempt
        );

        return Some(StatusReason::new("Ending", message));
    }

    // Two attempts must not write to the artifact prefix at once. The fence would stop the older one, but
    // its GPUs would still be occupied.
    if let Some(terminating) = observed
        .workers
        .iter()
        .find(|worker| worker.is_alive(observed.now))
    {
        let message = format!(
            "pod {} of attempt {} is still terminating",
            terminating.name, terminating.attempt
        );

        return Some(StatusReason::new("Ending", message));
    }

    // Measured from the stored time of the failure, so that a restart of the operator does not
    // extend it.
    let failure = recorded.last_failure.as_ref()?;
    let wait = failure::backoff_seconds(&recorded.restarts);
    let waited = time::seconds_since(&failure.at, observed.now);
    (recorded.has_failure_of_attempt(&stage.name, stage.attempt) && waited < wait).then(|| {
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

    use super::*;
    use crate::{
        cluster_fixtures::{active_job, ended_state, job_in, time_at, worker_pod},
        manifest_fixtures,
        observed::WorkerState,
        resolve::RunResource,
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

    fn observed(
        seconds: i64,
        jobs: Vec<ObservedJob>,
        states: &[(i32, WorkerState)],
    ) -> ObservedState {
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

    /// One row per transition: this table is the specification of the state machine.
    #[test]
    fn next_action_follows_recorded_and_observed_state() {
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

        let with_sidecar = |seconds, exit_code, reason| ObservedState {
            workers: vec![WorkerPod {
                sidecar_running: true,
                ended_at: Some(time_at(0)),
                ..worker_pod("align", 1, ended_state(exit_code, reason, ""))
            }],
            ..observed(seconds, vec![active_job("align", 1)], &[])
        };

        let rows: [(&str, StageStatus, Option<LastFailure>, ObservedState, &str); 24] = [
            (
                "trainer done, sidecar may still end by itself",
                stage(Running, 1),
                None,
                with_sidecar(29, 0, "Completed"),
                "watch 1",
            ),
            (
                "trainer done, sidecar keeps the Job active",
                stage(Running, 1),
                None,
                with_sidecar(30, 0, "Completed"),
                "succeed",
            ),
            (
                "preempted by Kueue, pods of the suspended Job end",
                stage(Running, 1),
                None,
                observed(
                    0,
                    vec![ObservedJob {
                        queued: true,
                        ..active_job("align", 1)
                    }],
                    &[(1, ended_state(75, "Error", ""))],
                ),
                "watch 1",
            ),
            (
                "admitted again, a pod of the first admission is still there",
                stage(Running, 1),
                None,
                ObservedState {
                    workers: vec![
                        WorkerPod {
                            deleted_at: Some(time_at(-40)),
                            ..worker_pod("align", 1, ended_state(75, "Error", ""))
                        },
                        worker_pod("align", 1, RUNNING),
                    ],
                    ..observed(0, vec![active_job("align", 1)], &[])
                },
                "watch 1",
            ),
            (
                "trainer failed, sidecar keeps the Job active",
                stage(Running, 1),
                None,
                with_sidecar(0, 65, "Error"),
                "fail Data",
            ),
            (
                "failure recorded, a sidecar still holds the GPUs",
                stage(Starting, 1),
                failed_at(time_at(0), 1),
                with_sidecar(9, 137, "Error"),
                "wait Ending",
            ),
            (
                "new run, while the Job of a deleted run of the same name exists",
                stage(Pending, 0),
                None,
                observed(0, vec![foreign()], &[]),
                "wait Ending",
            ),
            (
                "running, while a pod of a deleted run of the same name fails",
                stage(Running, 1),
                None,
                ObservedState {
                    workers: vec![WorkerPod {
                        job_uid: "old".to_owned(),
                        ..worker_pod("align", 1, ended_state(143, "Error", ""))
                    }],
                    ..observed(0, vec![active_job("align", 1)], &[])
                },
                "watch 1",
            ),
            (
                "new run",
                stage(Pending, 0),
                None,
                observed(0, vec![], &[]),
                "start 1",
            ),
            (
                "Job created, status update lost",
                stage(Pending, 0),
                None,
                observed(0, vec![active_job("align", 1)], &[]),
                "watch 1",
            ),
            (
                "pods running",
                stage(Running, 1),
                None,
                observed(0, vec![active_job("align", 1)], &[(1, RUNNING)]),
                "watch 1",
            ),
            (
                "Job complete",
                stage(Running, 1),
                None,
                observed(0, vec![complete()], &[]),
                "succeed",
            ),
            (
                "pod killed",
                stage(Running, 1),
                None,
                observed(
                    0,
                    vec![active_job("align", 1)],
                    &[(1, ended_state(137, "Error", ""))],
                ),
                "fail Killed",
            ),
            (
                "pods deleted",
                stage(Running, 1),
                None,
                observed(0, vec![lost()], &[]),
                "fail PodDeleted",
            ),
            (
                "Job deleted while running",
                stage(Running, 1),
                None,
                observed(0, vec![], &[]),
                "fail JobDeleted",
            ),
            (
                "Job deleted while starting",
                stage(Starting, 1),
                None,
                observed(0, vec![], &[]),
                "fail JobDeleted",
            ),
            (
                "Job being deleted",
                stage(Running, 1),
                None,
                observed(0, vec![deleting()], &[(1, RUNNING)]),
                "fail JobDeleted",
            ),
            (
                "failure recorded, within the backoff",
                stage(Starting, 1),
                failed_at(time_at(0), 1),
                observed(1, vec![lost()], &[]),
                "wait RestartPending",
            ),
            (
                "failure recorded, after the backoff",
                stage(Starting, 1),
                failed_at(time_at(0), 1),
                observed(2, vec![lost()], &[]),
                "start 2",
            ),
            (
                "failure recorded, pod still terminating",
                stage(Starting, 1),
                failed_at(time_at(0), 1),
                observed(9, vec![], &[(1, RUNNING)]),
                "wait Ending",
            ),
            (
                "next attempt created, status update lost",
                stage(Starting, 1),
                failed_at(time_at(0), 1),
                observed(9, vec![lost(), active_job("align", 2)], &[]),
                "watch 2",
            ),
            (
                "earlier failure recorded, new failure",
                stage(Running, 2),
                failed_at(time_at(0), 1),
                observed(
                    9,
                    vec![active_job("align", 2)],
                    &[(2, ended_state(1, "Error", ""))],
                ),
                "fail Bug",
            ),
            (
                "resumed, previous attempt gone",
                stage(Suspended, 3),
                None,
                observed(9, vec![], &[]),
                "start 4",
            ),
            (
                "resumed, previous attempt still terminating",
                stage(Suspended, 1),
                None,
                observed(9, vec![], &[(1, RUNNING)]),
                "wait Ending",
            ),
        ];

        let resolved = manifest_fixtures::sample_training()
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        for (name, stage, last_failure, observed, expected) in rows {
            let recorded = RecordedStatus {
                last_failure,
                ..RecordedStatus::default()
            };

            assert_eq!(
                summarize(&next_action(&resolved, &recorded, &stage, &observed)),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn suspended_run_has_no_pods_unless_its_stage_is_complete() {
        let mut resolved = manifest_fixtures::sample_training()
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        resolved.policy.suspend = true;
        let running = stage(StageState::Running, 1);
        let rows = [
            (
                observed(0, vec![active_job("align", 1)], &[(1, RUNNING)]),
                "suspend",
            ),
            (observed(0, vec![], &[]), "suspend"),
            (
                observed(
                    0,
                    vec![active_job("align", 1)],
                    &[(1, ended_state(75, "Error", ""))],
                ),
                "suspend",
            ),
            (
                observed(0, vec![job_in("align", 1, JobState::Complete)], &[]),
                "succeed",
            ),
        ];

        for (observed, expected) in rows {
            let step = next_action(&resolved, &RecordedStatus::default(), &running, &observed);
            assert_eq!(summarize(&step), expected, "{observed:?}");
        }
    }

    #[test]
    fn blocked_run_creates_no_pods() {
        let mut resolved = manifest_fixtures::sample_training()
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        resolved.blocked_on = Some(StatusReason::new("TrainingMissing", ""));
        let step = next_action(
            &resolved,
            &RecordedStatus::default(),
            &stage(StageState::Pending, 0),
            &observed(0, vec![], &[]),
        );

        assert_eq!(summarize(&step), "wait TrainingMissing");
    }

    fn summarize(step: &StageAction) -> String {
        match step {
            StageAction::Wait(cause) => format!("wait {}", cause.reason),
            StageAction::Suspend => "suspend".to_owned(),
            StageAction::Start(attempt) => format!("start {attempt}"),
            StageAction::Watch(job) => format!("watch {}", job.attempt),
            StageAction::Succeed => "succeed".to_owned(),
            StageAction::Fail(failure) => format!("fail {}", failure.class.name()),
        }
    }
}
