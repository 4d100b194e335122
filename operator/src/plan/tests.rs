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

mod evaluations;

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
fn a_killed_worker_is_put_on_record_once_and_restarted_after_a_while() {
    let run = manifest_fixtures::sample_training();
    let killed = |seconds| at_work(seconds, "align", 1, ended_state(137, "Error", ""));
    let plan = decide(&run, &RecordedStatus::default(), &killed(10));
    assert_eq!(
        (created(&plan), plan.status.restarts.application),
        (None, 1)
    );

    assert_eq!(reasons(&plan), ["AttemptStarted", "Killed"]);
    // The write was lost: the same is found again, and counted once.
    assert_eq!(
        decide(&run, &RecordedStatus::default(), &killed(10)).status,
        plan.status
    );

    let soon = decide(&run, &plan.status, &killed(11));
    assert_eq!(
        (created(&soon), why(&soon.status, "Running").as_str()),
        (None, "False RestartPending")
    );

    let later = decide(&run, &plan.status, &killed(12));
    assert_eq!(created(&later), Some("muge-align-2"));
    assert_eq!(later.remove, [""; 0], "the last attempt stays for its logs");
    assert_eq!(later.status.restarts.total, 1);
}

#[test]
fn after_running_out_of_memory_an_automatic_micro_batch_is_halved() {
    let halves = |plan: &ReconcilePlan| {
        let objects = plan.create.as_ref().unwrap();
        let run_json = objects.config_map.data.as_ref().unwrap()["run.json"].as_str();
        serde_json::from_str::<serde_json::Value>(run_json).unwrap()["halveMicroBatch"].clone()
    };
    for (micro_batch, halved) in [(json!("Auto"), true), (json!(8), false)] {
        let run = manifest_fixtures::sample_training_with("/stages/0/microBatchSize", micro_batch);
        let first = decide(&run, &RecordedStatus::default(), &nothing(0));
        assert_eq!(halves(&first), false);
        let killed =
            |attempt, code, reason| at_work(10, "align", attempt, ended_state(code, reason, ""));
        let recorded = decide(
            &run,
            &RecordedStatus::default(),
            &killed(1, 137, "OOMKilled"),
        )
        .status;
        let second = decide(
            &run,
            &recorded,
            &ObservedState {
                jobs: vec![active_job("align", 1)],
                ..nothing(12)
            },
        );

        assert_eq!(halves(&second), halved);
        // Another end later leaves it at that, and so does a second lack of memory.
        for (code, reason) in [(75, "Error"), (137, "OOMKilled")] {
            let recorded = decide(&run, &second.status, &killed(2, code, reason)).status;
            let third = decide(
                &run,
                &recorded,
                &ObservedState {
                    jobs: vec![active_job("align", 2)],
                    ..nothing(60)
                },
            );

            assert_eq!(halves(&third), halved, "{code}");
        }

        assert_eq!(
            why(&recorded, "Degraded"),
            if halved {
                "True MicroBatchHalved"
            } else {
                "False AsExpected"
            }
        );
    }
}

#[test]
fn attempts_before_the_last_are_removed() {
    let run = manifest_fixtures::sample_training();
    let mut recorded = after(&run, &[at_work(0, "align", 2, ended_state(1, "Error", ""))]);
    recorded.restarts.total = 1;
    let jobs = vec![
        active_job("align", 1),
        job_in("align", 2, JobState::Failed(String::new())),
    ];

    let plan = decide(
        &run,
        &recorded,
        &ObservedState {
            jobs,
            ..nothing(60)
        },
    );

    assert_eq!(created(&plan), Some("muge-align-3"));
    assert_eq!(plan.remove, ["muge-align-1"]);
}

#[test]
fn a_failure_that_no_restart_cures_ends_the_run_without_burning_its_retries() {
    for (code, class) in [(64, "Usage"), (65, "Data"), (78, "Config")] {
        let observed = at_work(5, "align", 1, ended_state(code, "Error", "no such prefix"));
        let plan = decide(
            &manifest_fixtures::sample_training(),
            &RecordedStatus::default(),
            &observed,
        );
        assert_eq!(why(&plan.status, "Failed"), format!("True {class}"));
        assert_eq!(plan.status.restarts.total, 0, "{class}");
        assert_eq!(plan.status.stages[0].state, StageState::Failed);
        let message = &plan.status.find_condition("Failed").unwrap().message;

        assert!(
            message.starts_with("stage align: no such prefix. Not retried"),
            "{message}"
        );
    }
}

#[test]
fn a_run_out_of_retries_is_given_up() {
    let run = manifest_fixtures::sample_training_with(
        "/retries",
        json!({"application": 0, "infrastructure": 1}),
    );
    let killed = at_work(5, "align", 1, ended_state(137, "Error", ""));
    let plan = decide(&run, &RecordedStatus::default(), &killed);
    assert_eq!(why(&plan.status, "Failed"), "True Killed");
    let terminated = at_work(5, "align", 1, ended_state(143, "Error", ""));
    let plan = decide(&run, &RecordedStatus::default(), &terminated);

    assert_eq!(why(&plan.status, "Failed"), "False NotFailed");
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
fn pending_pods_are_reported_and_fail_after_the_start_deadline() {
    let run = manifest_fixtures::sample_training_with("/startDeadlineSeconds", json!(60));
    let missing = |seconds| {
        let waiting = WorkerState::Waiting {
            reason: "ErrImagePull".to_owned(),
            message: "not found".to_owned(),
        };

        at_work(seconds, "align", 1, waiting)
    };

    let plan = decide(&run, &RecordedStatus::default(), &missing(3));
    assert_eq!(why(&plan.status, "Running"), "False ImagePullFailed");
    assert_eq!(reasons(&plan), ["AttemptStarted", "ImagePullFailed"]);
    let late = decide(&run, &plan.status, &missing(61));
    assert_eq!(why(&late.status, "Failed"), "True StartDeadlineExceeded");
    assert_eq!(late.remove, ["muge-align-1"]);
    let message = &late.status.find_condition("Failed").unwrap().message;

    assert!(
        message.contains("image cnclip/trainer:test (not found). Push it"),
        "{message}"
    );
}

#[test]
fn a_run_that_takes_too_long_is_ended() {
    let run = manifest_fixtures::sample_training_with("/deadlineSeconds", json!(100));
    let running = |seconds| at_work(seconds, "align", 1, WorkerState::Running);
    let recorded = after(&run, &[running(1)]);
    assert_eq!(
        why(&decide(&run, &recorded, &running(100)).status, "Failed"),
        "False NotFailed"
    );

    let late = decide(&run, &recorded, &running(101));
    assert_eq!(why(&late.status, "Failed"), "True DeadlineExceeded");
    assert_eq!(late.remove, ["muge-align-1"]);
}

#[test]
fn a_run_that_was_done_in_time_is_not_ended_for_its_deadline() {
    let run = manifest_fixtures::sample_training_with("/deadlineSeconds", json!(100));
    let recorded = after(&run, &[at_work(1, "align", 1, WorkerState::Running)]);
    let late = decide(&run, &recorded, &done(500, "align", 1));
    assert_eq!(why(&late.status, "Failed"), "False NotFailed");
    assert_eq!(late.status.stages[0].state, StageState::Succeeded);
}

#[test]
fn time_in_a_queue_does_not_count_toward_the_deadline() {
    let run = manifest_fixtures::sample_training_with("/deadlineSeconds", json!(100));
    let job = |queued, started| ObservedState {
        jobs: vec![ObservedJob {
            queued,
            started: time_at(started),
            ..active_job("align", 1)
        }],
        ..nothing(started)
    };

    let recorded = after(&run, &[job(true, 0)]);
    assert_eq!(recorded.started_at, None);
    let admitted = decide(&run, &recorded, &job(false, 500)).status;
    assert_eq!(why(&admitted, "Failed"), "False NotFailed");
    assert_eq!(admitted.started_at, admitted.stages[0].started_at);
    assert!(admitted.started_at.is_some());
}

#[test]
fn a_run_that_has_ended_leaves_no_job_in_a_queue() {
    let run = manifest_fixtures::sample_training();
    let failed = at_work(1, "align", 1, ended_state(78, "Error", ""));
    let recorded = after(&run, &[failed]);
    let queued = ObservedState {
        jobs: vec![ObservedJob {
            queued: true,
            ..active_job("align", 1)
        }],
        ..nothing(2)
    };

    assert_eq!(decide(&run, &recorded, &queued).remove, ["muge-align-1"]);
}

#[test]
fn an_ended_run_is_deleted_when_its_time_is_over() {
    let run = manifest_fixtures::sample_training_with("/ttlSecondsAfterFinished", json!(60));
    let recorded = after(
        &run,
        &[at_work(0, "align", 1, ended_state(78, "Error", ""))],
    );
    let early = decide(&run, &recorded, &nothing(59));
    assert_eq!(
        (early.delete_run, early.requeue_after),
        (false, Some(Duration::from_secs(1)))
    );

    assert!(decide(&run, &recorded, &nothing(60)).delete_run);
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
