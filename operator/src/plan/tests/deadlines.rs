//! What the time ends: the start of pods, a run, and what is left of it.

use super::*;

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
