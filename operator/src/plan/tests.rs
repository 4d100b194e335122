//! Scenarios of planning: recorded status, observed state, resulting plan.

use cnclip_crds::{
    report::ProgressReport,
    trainer_config::RunIdentity,
    training::{CnClipTraining, StageState},
};
use serde_json::json;

use super::*;
use crate::{
    cluster_fixtures::{active_job, ended_state, job_in, time_at, worker_pod},
    manifest_fixtures,
    observed::{JobState, ObservedJob, WorkerState},
    resolve::RunResource,
};

mod deadlines;
mod evaluations;
mod failures;

fn decide(
    run: &impl RunResource,
    recorded: &RecordedStatus,
    observed: &ObservedState,
) -> ReconcilePlan {
    let defaults = manifest_fixtures::trainer_defaults();
    plan_run(
        &RunRef::from_run(run),
        run.resolve_run(observed, &defaults),
        recorded,
        observed,
    )
}

fn nothing(seconds: i64) -> ObservedState {
    ObservedState {
        now: time_at(seconds),
        ..ObservedState::default()
    }
}

fn at_work(seconds: i64, stage: &str, attempt: i32, state: WorkerState) -> ObservedState {
    ObservedState {
        jobs: vec![active_job(stage, attempt)],
        workers: vec![worker_pod(stage, attempt, state)],
        ..nothing(seconds)
    }
}

fn done(seconds: i64, stage: &str, attempt: i32) -> ObservedState {
    ObservedState {
        jobs: vec![job_in(stage, attempt, JobState::Complete)],
        ..nothing(seconds)
    }
}

/// The record after these sights, one after the other.
fn after(run: &CnClipTraining, sights: &[ObservedState]) -> RecordedStatus {
    sights
        .iter()
        .fold(RecordedStatus::default(), |recorded, observed| {
            decide(run, &recorded, observed).status
        })
}

fn report(stage: &str, step: i64) -> ProgressReport {
    let run = RunIdentity {
        stage: stage.to_owned(),
        ..RunIdentity::default()
    };

    ProgressReport {
        run,
        step,
        steps: 100,
        reported_at: time_at(step).as_second(),
        ..ProgressReport::default()
    }
}

fn created(plan: &ReconcilePlan) -> Option<&str> {
    plan.create.as_ref()?.job.metadata.name.as_deref()
}

fn reasons(plan: &ReconcilePlan) -> Vec<&str> {
    plan.events
        .iter()
        .map(|notice| notice.reason.as_str())
        .collect()
}

fn why(recorded: &RecordedStatus, type_: &str) -> String {
    let found = recorded.find_condition(type_).unwrap();
    format!("{} {}", found.status, found.reason)
}

#[test]
fn a_new_run_gets_the_objects_of_its_first_attempt_and_no_word_of_them_yet() {
    let plan = decide(
        &manifest_fixtures::sample_training(),
        &RecordedStatus::default(),
        &nothing(0),
    );
    assert_eq!(created(&plan), Some("muge-align-1"));
    let stages: Vec<_> = plan
        .status
        .stages
        .iter()
        .map(|stage| (stage.state, stage.attempt))
        .collect();

    assert_eq!(stages, [(StageState::Pending, 0), (StageState::Pending, 0)]);
    assert_eq!(why(&plan.status, "Running"), "False Starting");
    assert_eq!(plan.status.started_at, None);
}

#[test]
fn a_manifest_that_cannot_work_makes_no_objects() {
    let run = manifest_fixtures::sample_training_with("/stages/0/learningRate", json!("fast"));
    let plan = decide(&run, &RecordedStatus::default(), &nothing(0));
    assert_eq!(created(&plan), None);
    assert_eq!(why(&plan.status, "Accepted"), "False Invalid");
    assert_eq!(reasons(&plan), ["Rejected"]);
    assert_eq!(plan.requeue_after, None);
}

#[test]
fn a_run_whose_pods_run_reports_its_progress() {
    let mut observed = at_work(5, "align", 1, WorkerState::Running);
    observed.report = Some(report("align", 3));
    let plan = decide(
        &manifest_fixtures::sample_training(),
        &RecordedStatus::default(),
        &observed,
    );
    assert_eq!(created(&plan), None);
    assert_eq!(why(&plan.status, "Running"), "True StageRunning");
    assert_eq!(why(&plan.status, "Progressing"), "True ReportsFresh");
    assert_eq!(
        (plan.status.stages[0].step, plan.status.stages[0].attempt),
        (3, 1)
    );

    assert_eq!(reasons(&plan), ["AttemptStarted"]);
    let requeue = plan.requeue_after.unwrap().as_secs();
    assert!((60..75).contains(&requeue), "{requeue}");
}

#[test]
fn the_last_words_of_one_stage_are_not_taken_for_the_nexts() {
    let run = manifest_fixtures::sample_training();
    let recorded = after(&run, &[done(1, "align", 1)]);
    let mut observed = at_work(5, "tune", 1, WorkerState::Running);
    observed.report = Some(report("align", 100));
    assert_eq!(decide(&run, &recorded, &observed).status.stages[1].step, 0);
}

#[test]
fn the_next_stage_begins_when_the_end_of_the_one_before_is_on_record() {
    let run = manifest_fixtures::sample_training();
    let recorded = after(&run, &[at_work(0, "align", 1, WorkerState::Running)]);
    let plan = decide(&run, &recorded, &done(9, "align", 1));
    assert_eq!(
        (created(&plan), plan.requeue_after),
        (None, Some(Duration::ZERO))
    );

    assert_eq!(reasons(&plan), ["StageSucceeded"]);
    let plan = decide(&run, &plan.status, &done(10, "align", 1));
    assert_eq!(created(&plan), Some("muge-tune-1"));
}

#[test]
fn a_run_is_complete_when_its_last_stage_is_done_and_is_never_begun_again() {
    let run = manifest_fixtures::sample_training();
    let sights = [done(1, "align", 1), done(2, "tune", 1), nothing(3)];
    let recorded = after(&run, &sights);
    assert_eq!(why(&recorded, "Complete"), "True Done");
    assert_eq!(
        recorded.finished_at.as_deref(),
        Some("2027-01-15T08:00:03Z")
    );
    // Its Jobs were collected, and the run looks as if it had never begun.
    let plan = decide(&run, &recorded, &nothing(999));
    assert_eq!((created(&plan), plan.requeue_after), (None, None));
    assert_eq!(
        plan.status,
        RecordedStatus {
            observed_generation: Some(1),
            ..recorded
        }
    );
}

#[test]
fn a_run_held_back_loses_its_pods_and_goes_on_as_the_next_attempt() {
    let run = manifest_fixtures::sample_training();
    let held = manifest_fixtures::sample_training_with("/suspend", json!(true));
    let running = at_work(5, "align", 1, WorkerState::Running);
    let recorded = after(&run, std::slice::from_ref(&running));
    let plan = decide(&held, &recorded, &running);

    assert_eq!(plan.remove, ["muge-align-1"]);
    assert_eq!(why(&plan.status, "Suspended"), "True ByUser");
    assert_eq!(plan.status.stages[0].state, StageState::Suspended);
    // The pod still saves its state: nothing begins before it has ended, and its last words count.
    let last_words = Some(report("align", 42));
    let ending = ObservedState {
        workers: running.workers,
        report: last_words,
        ..nothing(6)
    };

    assert_eq!(
        decide(&held, &plan.status, &ending).status.stages[0].step,
        42
    );

    assert_eq!(created(&decide(&run, &plan.status, &ending)), None);
    let resumed = decide(&run, &plan.status, &nothing(7));
    assert_eq!(created(&resumed), Some("muge-align-2"));
    assert_eq!(resumed.status.restarts.total, 0);
}

#[test]
fn refusals_of_the_api_server_are_reported() {
    let run = manifest_fixtures::sample_training();
    let mut plan = decide(&run, &RecordedStatus::default(), &nothing(0));
    let quota = "applying Job muge-align-1: exceeded quota".to_owned();
    plan.mark_refused(
        &RunRef::from_run(&run),
        &RecordedStatus::default(),
        &nothing(0),
        quota,
    );
    assert_eq!(why(&plan.status, "Running"), "False Refused");
    assert_eq!(reasons(&plan), ["Refused"]);
}

#[test]
fn the_same_sight_gives_the_same_plan() {
    let run = manifest_fixtures::sample_training();
    let sights = [
        nothing(0),
        at_work(1, "align", 1, WorkerState::Running),
        at_work(2, "align", 1, ended_state(137, "OOMKilled", "")),
        done(3, "align", 1),
    ];

    for observed in sights {
        let first = decide(&run, &RecordedStatus::default(), &observed);
        let second = decide(&run, &RecordedStatus::default(), &observed);
        assert_eq!(
            (first.status, first.create, first.remove),
            (second.status, second.create, second.remove)
        );
    }
}
