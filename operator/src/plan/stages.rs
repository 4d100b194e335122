//! What the current stage needs next. Pure.
//!
//! An attempt begins only when the end of the one before is on record, so that a lost write loses no
//! count and makes no second set of pods.

use cnclip_crds::training::{StageState, StageStatus};

use super::failure::{self, Class, Failure};
use crate::{
    ledger::Ledger,
    observed::{JobSeen, JobState, Observed},
    time,
    work::{Cause, Work},
};

/// What the current stage needs next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing but time.
    Wait(Cause),
    /// No pods, because the user holds the run back.
    HoldBack,
    /// Pods for this attempt.
    Start(i32),
    /// To be looked at: its pods are being made or at work.
    Watch(JobSeen),
    /// To be put on record as done.
    Succeed,
    /// To be put on record as failed, once.
    Fail(Failure),
}

/// What the stage needs next, given what is on record and what was seen.
pub fn next(work: &Work, ledger: &Ledger, stage: &StageStatus, seen: &Observed) -> Step {
    let job = seen
        .newest_job(&stage.name)
        .filter(|job| job.attempt >= stage.attempt);

    if job.is_some_and(|job| job.state == JobState::Complete) {
        return Step::Succeed;
    }

    if work.suspend {
        return Step::HoldBack;
    }

    if let Some(job) = job
        && !ledger.has_failure_of(&stage.name, job.attempt)
    {
        let workers = seen.workers_of(job);
        let failure = failure::of_attempt(job, &workers, seen.now);
        return failure.map_or_else(|| Step::Watch(job.clone()), Step::Fail);
    }

    if job.is_none() && was_at_work(stage) && !ledger.has_failure_of(&stage.name, stage.attempt) {
        let message = format!(
            "the Job of stage {}, attempt {} is gone",
            stage.name, stage.attempt
        );

        return Step::Fail(Failure::new(Class::JobDeleted, message));
    }

    wait_before(work, ledger, stage, seen).map_or(Step::Start(stage.attempt + 1), Step::Wait)
}

fn was_at_work(stage: &StageStatus) -> bool {
    matches!(stage.state, StageState::Starting | StageState::Running)
}

/// What must pass before the next attempt.
fn wait_before(
    work: &Work,
    ledger: &Ledger,
    stage: &StageStatus,
    seen: &Observed,
) -> Option<Cause> {
    if let Some(cause) = &work.waits_for {
        return Some(cause.clone());
    }

    let next = |job: &&JobSeen| job.stage == stage.name && job.attempt == stage.attempt + 1;
    if let Some(job) = seen.jobs.iter().find(next) {
        let message = format!(
            "an old Job with the name of attempt {} is still going away",
            job.attempt
        );

        return Some(Cause::new("Ending", message));
    }

    if let Some(living) = seen.workers.iter().find(|worker| worker.lives(seen.now)) {
        let message = format!(
            "pod {} of attempt {} is still ending",
            living.name, living.attempt
        );

        return Some(Cause::new("Ending", message));
    }

    let failure = ledger.last_failure.as_ref()?;
    let wait = failure::backoff_seconds(&ledger.restarts);
    let waited = time::seconds_since(&failure.at, seen.now);
    (ledger.has_failure_of(&stage.name, stage.attempt) && waited < wait).then(|| {
        let message = format!(
            "attempt {} of stage {} begins {} after {} ({})",
            stage.attempt + 1,
            stage.name,
            time::in_words(wait),
            failure.at,
            failure.class
        );

        Cause::new("RestartPending", message)
    })
}

#[cfg(test)]
mod tests {
    use cnclip_crds::shared::LastFailure;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::{
        observed::{Worker, WorkerState},
        run::Run,
        samples,
        seen::{at, ended, job, job_in, worker},
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
            at: time::rfc3339(time),
            ..LastFailure::default()
        })
    }

    fn seen(seconds: i64, jobs: Vec<JobSeen>, states: &[(i32, WorkerState)]) -> Observed {
        let workers = states
            .iter()
            .map(|(attempt, state)| worker("align", *attempt, state.clone()));

        Observed {
            now: at(seconds),
            jobs,
            workers: workers.collect(),
            ..Observed::default()
        }
    }

    /// One row a rule. Read this table to know how a stage goes on.
    #[test]
    fn a_stage_goes_on_by_what_is_on_record_and_what_is_seen() {
        use StageState::{Pending, Running, Starting, Suspended};
        let complete = || job_in("align", 1, JobState::Complete);
        let lost = || job_in("align", 1, JobState::Failed("why".to_owned()));
        let deleting = || JobSeen {
            deleting: true,
            ..job("align", 1)
        };

        let foreign = || JobSeen {
            foreign: true,
            uid: "old".to_owned(),
            ..job_in("align", 1, JobState::Complete)
        };

        let rows: [(&str, StageStatus, Option<LastFailure>, Observed, &str); 18] = [
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
                Observed {
                    workers: vec![Worker {
                        job_uid: "old".to_owned(),
                        ..worker("align", 1, ended(143, "Error", ""))
                    }],
                    ..seen(0, vec![job("align", 1)], &[])
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
                seen(0, vec![job("align", 1)], &[]),
                "watch 1",
            ),
            (
                "its pods are at work",
                stage(Running, 1),
                None,
                seen(0, vec![job("align", 1)], &[(1, RUNNING)]),
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
                seen(0, vec![job("align", 1)], &[(1, ended(137, "Error", ""))]),
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
                failed_at(at(0), 1),
                seen(1, vec![lost()], &[]),
                "wait RestartPending",
            ),
            (
                "a failure is on record, long ago",
                stage(Starting, 1),
                failed_at(at(0), 1),
                seen(2, vec![lost()], &[]),
                "start 2",
            ),
            (
                "a failure is on record, its pod still ends",
                stage(Starting, 1),
                failed_at(at(0), 1),
                seen(9, vec![], &[(1, RUNNING)]),
                "wait Ending",
            ),
            (
                "the next attempt was made but never put on record",
                stage(Starting, 1),
                failed_at(at(0), 1),
                seen(9, vec![lost(), job("align", 2)], &[]),
                "watch 2",
            ),
            (
                "an old failure, a new one",
                stage(Running, 2),
                failed_at(at(0), 1),
                seen(9, vec![job("align", 2)], &[(2, ended(1, "Error", ""))]),
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

        let work = samples::training()
            .work(&Observed::default(), &samples::defaults())
            .unwrap();

        for (name, stage, last_failure, seen, expected) in rows {
            let ledger = Ledger {
                last_failure,
                ..Ledger::default()
            };

            assert_eq!(
                in_short(&next(&work, &ledger, &stage, &seen)),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn a_run_held_back_has_no_pods_unless_its_work_is_done() {
        let mut work = samples::training()
            .work(&Observed::default(), &samples::defaults())
            .unwrap();

        work.suspend = true;
        let running = stage(StageState::Running, 1);
        let rows = [
            (seen(0, vec![job("align", 1)], &[(1, RUNNING)]), "hold back"),
            (seen(0, vec![], &[]), "hold back"),
            (
                seen(0, vec![job("align", 1)], &[(1, ended(75, "Error", ""))]),
                "hold back",
            ),
            (
                seen(0, vec![job_in("align", 1, JobState::Complete)], &[]),
                "succeed",
            ),
        ];

        for (seen, expected) in rows {
            let step = next(&work, &Ledger::default(), &running, &seen);
            assert_eq!(in_short(&step), expected, "{seen:?}");
        }
    }

    #[test]
    fn a_run_that_waits_for_another_makes_no_pods() {
        let mut work = samples::training()
            .work(&Observed::default(), &samples::defaults())
            .unwrap();

        work.waits_for = Some(Cause::new("TrainingMissing", ""));
        let step = next(
            &work,
            &Ledger::default(),
            &stage(StageState::Pending, 0),
            &seen(0, vec![], &[]),
        );

        assert_eq!(in_short(&step), "wait TrainingMissing");
    }

    fn in_short(step: &Step) -> String {
        match step {
            Step::Wait(cause) => format!("wait {}", cause.reason),
            Step::HoldBack => "hold back".to_owned(),
            Step::Start(attempt) => format!("start {attempt}"),
            Step::Watch(job) => format!("watch {}", job.attempt),
            Step::Succeed => "succeed".to_owned(),
            Step::Fail(failure) => format!("fail {}", failure.class.name()),
        }
    }
}
