//! The same of evaluations: gates after the end, and every checkpoint of a training.

use cnclip_crds::{
    evaluation::CnClipEvaluation,
    report::{EvaluationReport, TrainerActivity},
    tasks::{RecallAtK, RetrievalRecalls, RetrievalScores, TaskResult, TaskScores},
};
use serde_json::Value;

use super::*;
use crate::status::progress::matches_attempt;

mod backlog;

/// What the operator does in one reconcile: plans from what is on record, and puts the plan there.
fn reconcile(run: &mut CnClipEvaluation, observed: &ObservedState) -> ReconcilePlan {
    let plan = decide(run, &run.recorded_status(), observed);
    run.status = Some(serde_json::from_value(run.to_status_json(&plan.status)).unwrap());
    plan
}

fn checkpoint(stage: &str, step: i64) -> Value {
    json!({"stage": stage, "step": step, "uri": format!("s3://runs/muge/{stage}/checkpoints/{step}-1"),
           "digest": format!("sha-{step}"), "writtenAt": "2026-01-01T00:00:00Z"})
}

/// The training with these newest checkpoints, newest first.
fn training(checkpoints: &[Value], ended: Option<&str>) -> CnClipTraining {
    let conditions = ended.map(|type_| {
        json!([{"type": type_, "status": "True", "reason": "Because", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    });

    let mut training = manifest_fixtures::sample_training();
    let status = json!({"checkpoints": checkpoints, "conditions": conditions.unwrap_or(json!([]))});
    training.status = Some(serde_json::from_value(status).unwrap());
    training
}

fn from_training(observed: ObservedState, training: CnClipTraining) -> ObservedState {
    ObservedState {
        training: Some(training),
        ..observed
    }
}

/// What a trainer says that has found a checkpoint and scored it.
fn scored(run: &CnClipEvaluation, stage: &str, checkpoint: &str, r1: f64) -> ProgressReport {
    let recall = RecallAtK {
        r1,
        r5: r1 + 20.0,
        r10: r1 + 30.0,
        mean_recall: r1 + 15.0,
    };

    let recalls = Some(RetrievalRecalls {
        text_to_image: recall,
        image_to_text: recall,
    });

    let result = TaskResult {
        name: "valid".to_owned(),
        dataset: "s3://data/valid/".to_owned(),
        digest: "d-1".to_owned(),
        images: 5,
        seconds: 1.0,
        measured: TaskScores::Retrieval(RetrievalScores {
            texts: 5,
            recalls,
            threshold: None,
        }),
    };

    let evaluation = EvaluationReport {
        checkpoint: Some(checkpoint.to_owned()),
        digest: Some("sha".to_owned()),
        missing: false,
        version: "0.1.0".to_owned(),
    };

    ProgressReport {
        run: RunRef::from_run(run).attempt_identity(stage, 1),
        pod_uid: "pod-uid".to_owned(),
        activity: TrainerActivity::Done,
        step: 1,
        steps: 1,
        evaluation: Some(evaluation),
        results: vec![result],
        ..ProgressReport::default()
    }
}

/// An attempt that is done, with its last words.
fn well(
    run: &CnClipEvaluation,
    seconds: i64,
    stage: &str,
    checkpoint: &str,
    r1: f64,
) -> ObservedState {
    let report = scored(run, stage, checkpoint, r1);
    assert!(matches_attempt(
        &report,
        &RunRef::from_run(run).attempt_identity(stage, 1),
        "pod-uid"
    ));

    ObservedState {
        workers: vec![worker_pod(stage, 1, ended_state(0, "Completed", ""))],
        report: Some(report),
        ..done(seconds, stage, 1)
    }
}

fn series() -> CnClipEvaluation {
    manifest_fixtures::sample_evaluation_with("/trigger", json!("EveryCheckpoint"))
}

#[test]
fn results_say_what_they_are_of_and_what_made_them() {
    let mut run = manifest_fixtures::sample_evaluation();
    let done = well(
        &run,
        9,
        "evaluate",
        "s3://runs/muge/tune/checkpoints/8-1",
        50.0,
    );

    reconcile(
        &mut run,
        &from_training(done, training(&[], Some("Complete"))),
    );

    let found = serde_json::to_value(&run.status).unwrap();
    let expected = json!({
        "checkpoint": "s3://runs/muge/tune/checkpoints/8-1", "digest": "sha",
        "datasets": [{"task": "valid", "uri": "s3://data/valid/", "digest": "d-1"}],
        "image": "cnclip/trainer:test", "imageId": "cnclip/trainer@sha256:0123", "version": "0.1.0",
    });

    assert_eq!(found["provenance"], expected);
    assert_eq!(found["summary"]["score"], "50.00");
    assert_eq!(found["summary"]["metric"], "textToImage.r1");
    let conditions = found["conditions"].as_array().unwrap();
    assert!(
        conditions.len() == 7 && !found.to_string().contains("CheckpointVerified"),
        "{found}"
    );
}

#[test]
fn a_classification_is_of_its_templates_too() {
    let mut run = manifest_fixtures::sample_evaluation();
    let mut done = well(
        &run,
        9,
        "evaluate",
        "s3://runs/muge/tune/checkpoints/8-1",
        50.0,
    );
    let templates = json!({"from": "cnclip: General", "count": 183, "digest": "t-1"});
    let scores = json!({"classes": 2, "headline": "accuracy", "accuracy": 1.0, "top5": 1.0,
                        "meanPerClass": 1.0, "meanAveragePrecision": 1.0, "templates": templates});
    let report = done.report.as_mut().unwrap();
    report.results[0].measured = serde_json::from_value(json!({"zeroShot": scores})).unwrap();
    reconcile(
        &mut run,
        &from_training(done, training(&[], Some("Complete"))),
    );
    let found = serde_json::to_value(&run.status).unwrap();
    assert_eq!(found["provenance"]["datasets"][0]["templates"], templates);
    assert_eq!(found["summary"]["metric"], "accuracy");
}

#[test]
fn results_of_earlier_reports_are_kept_when_a_shortened_report_lacks_them() {
    let task = |name| json!({"name": name, "retrieval": {"dataset": "s3://data/valid/"}});
    let tasks = json!(["a", "b", "c"].map(task));
    let mut run = manifest_fixtures::sample_evaluation_with("/tasks", tasks);
    let reported = |names: &[&str]| {
        let observed = well(
            &manifest_fixtures::sample_evaluation(),
            9,
            "evaluate",
            "s3://x/checkpoints/8-1",
            50.0,
        );

        let report = observed.report.unwrap();
        let one = |name: &&str| TaskResult {
            name: (*name).to_owned(),
            ..report.results[0].clone()
        };

        let results = names.iter().map(one).collect();
        let report = Some(ProgressReport {
            steps: 3,
            results,
            ..report.clone()
        });

        let observed = at_work(9, "evaluate", 1, WorkerState::Running);
        from_training(
            ObservedState { report, ..observed },
            training(&[], Some("Complete")),
        )
    };

    for (names, expected) in [
        (vec!["a", "b"], vec!["a", "b"]),
        (vec!["b", "c"], vec!["a", "b", "c"]),
        (vec!["a"], vec!["a", "b", "c"]),
        // Those of tasks that the manifest does not have are left out, and a second one of a task.
        (vec!["a", "x", "y", "a"], vec!["a", "b", "c"]),
    ] {
        reconcile(&mut run, &reported(&names));
        let status = run.status.as_ref().unwrap();
        let results: Vec<_> = status
            .results
            .iter()
            .map(|result| result.name.as_str())
            .collect();
        assert_eq!(results, expected);
        let datasets = &status.provenance.as_ref().unwrap().datasets;
        assert_eq!(datasets.len(), expected.len());
    }
}

#[test]
fn a_gate_waits_for_its_baseline_after_the_end_and_is_judged_once() {
    let gate = json!({"task": "valid", "metric": "textToImage.r1",
                      "notWorseThan": {"evaluationName": "old", "tolerance": "1"}});
    let mut run = manifest_fixtures::sample_evaluation_with("/gate", gate);
    let complete = training(&[], Some("Complete"));
    let at_the_end = well(&run, 9, "evaluate", "s3://x/checkpoints/8-1", 50.0);
    reconcile(&mut run, &from_training(at_the_end, complete.clone()));
    let waiting = reconcile(&mut run, &from_training(nothing(10), complete.clone()));
    assert_eq!(why(&waiting.status, "Complete"), "True Done");
    assert_eq!(
        why(&waiting.status, "GatePassed"),
        "Unknown BaselineMissing"
    );
    let still = reconcile(&mut run, &from_training(nothing(11), complete.clone()));
    // The baseline may yet be applied, which triggers a reconciliation.
    let requeue = still.requeue_after.unwrap().as_secs();
    assert!((300..375).contains(&requeue), "{requeue}");

    let mut old = manifest_fixtures::sample_evaluation();
    let its = well(&old, 12, "evaluate", "s3://y/checkpoints/8-1", 50.9);
    reconcile(&mut old, &from_training(its, complete.clone()));
    let with_baseline = ObservedState {
        baseline: Some(old),
        ..from_training(nothing(13), complete.clone())
    };
    let judged = reconcile(&mut run, &with_baseline);
    assert_eq!(why(&judged.status, "GatePassed"), "True Passed");
    assert_eq!(
        (reasons(&judged), judged.requeue_after),
        (vec!["GatePassed"], None)
    );
    assert_eq!(
        run.status.as_ref().unwrap().summary.as_ref().unwrap().gate,
        "Passed"
    );
    // The baseline goes; the verdict stays.
    let after = reconcile(&mut run, &from_training(nothing(14), complete));
    assert_eq!(why(&after.status, "GatePassed"), "True Passed");
}

#[test]
fn a_failed_gate_fails_no_evaluation() {
    let gate = json!({"task": "valid", "metric": "textToImage.r1", "atLeast": "76"});
    let mut run = manifest_fixtures::sample_evaluation_with("/gate", gate);
    let complete = training(&[], Some("Complete"));
    let at_the_end = well(&run, 9, "evaluate", "s3://x/checkpoints/8-1", 50.0);
    let plan = reconcile(&mut run, &from_training(at_the_end, complete.clone()));

    assert_eq!(
        reasons(&plan),
        ["AttemptStarted", "StageSucceeded", "GateNotPassed"][1..]
    );

    let plan = reconcile(&mut run, &from_training(nothing(10), complete));
    assert_eq!(why(&plan.status, "Complete"), "True Done");
    assert_eq!(why(&plan.status, "Failed"), "False NotFailed");
    assert_eq!(why(&plan.status, "GatePassed"), "False BelowTheGate");
}

#[test]
fn every_checkpoint_is_scored_as_it_appears_until_the_training_has_ended() {
    let mut run = series();
    let young = training(&[], None);
    let plan = reconcile(&mut run, &from_training(nothing(0), young));
    assert_eq!(
        (created(&plan), why(&plan.status, "Running").as_str()),
        (None, "False NoCheckpoint")
    );

    let first = training(&[checkpoint("align", 10)], None);
    let plan = reconcile(&mut run, &from_training(nothing(1), first.clone()));
    assert_eq!(created(&plan), Some("muge-scores-align-10-1"));
    let objects = plan.create.unwrap();
    let run_json = objects.config_map.data.unwrap()["run.json"].clone();

    assert!(
        run_json.contains("s3://runs/muge/align/checkpoints/10-1"),
        "{run_json}"
    );

    assert!(
        run_json.contains("s3://runs/muge/evaluations/muge-scores/align-10"),
        "{run_json}"
    );

    let uri = "s3://runs/muge/align/checkpoints/10-1";
    let at_the_end = well(&run, 2, "align-10", uri, 50.0);
    reconcile(&mut run, &from_training(at_the_end, first.clone()));
    let plan = reconcile(&mut run, &from_training(nothing(3), first));
    assert_eq!(why(&plan.status, "Running"), "False WaitingForCheckpoint");
    assert_eq!(why(&plan.status, "Complete"), "Unknown Waiting");

    // Two more in between, of two stages; the older is scored first.
    let both = [
        checkpoint("tune", 5),
        checkpoint("align", 20),
        checkpoint("align", 10),
    ];

    let over = training(&both, Some("Failed"));
    let plan = reconcile(&mut run, &from_training(nothing(4), over.clone()));
    assert_eq!(created(&plan), Some("muge-scores-align-20-1"));

    for (stage, uri, r1) in [
        ("align-20", "s3://runs/muge/align/checkpoints/20-1", 60.0),
        ("tune-5", "s3://runs/muge/tune/checkpoints/5-1", 55.0),
    ] {
        let at_the_end = well(&run, 5, stage, uri, r1);
        reconcile(&mut run, &from_training(at_the_end, over.clone()));
    }

    let plan = reconcile(&mut run, &from_training(nothing(6), over));
    assert_eq!(why(&plan.status, "Complete"), "True Done");
    let status = run.status.as_ref().unwrap();
    let history: Vec<_> = status
        .history
        .iter()
        .map(|entry| {
            (
                entry.name.as_str(),
                entry.state,
                entry.results[0].score.as_deref(),
            )
        })
        .collect();

    let succeeded = StageState::Succeeded;
    let expected = [
        ("tune-5", succeeded, Some("55.00")),
        ("align-20", succeeded, Some("60.00")),
        ("align-10", succeeded, Some("50.00")),
    ];

    assert_eq!(history, expected);
    let newest = &status.results[0]
        .retrieval
        .as_ref()
        .unwrap()
        .recalls
        .as_ref()
        .unwrap();

    assert_eq!(newest.text_to_image.r1, "55.00");
    let report = "s3://runs/muge/evaluations/muge-scores/tune-5/report.html";
    assert_eq!(status.report.as_deref(), Some(report));
}

#[test]
fn a_checkpoint_that_was_deleted_before_its_turn_is_skipped_and_said_so() {
    let mut run = series();
    let both = training(&[checkpoint("align", 20), checkpoint("align", 10)], None);
    reconcile(&mut run, &from_training(nothing(0), both.clone()));
    let gone = EvaluationReport {
        missing: true,
        ..EvaluationReport::default()
    };

    let report = ProgressReport {
        run: RunRef::from_run(&run).attempt_identity("align-10", 1),
        evaluation: Some(gone),
        ..ProgressReport::default()
    };

    let mut observed = at_work(1, "align-10", 1, ended_state(78, "Error", ""));
    observed.report = Some(report);
    let plan = reconcile(&mut run, &from_training(observed, both.clone()));
    assert_eq!(reasons(&plan), ["CheckpointSkipped"]);
    assert_eq!(
        (&plan.status.last_failure, plan.status.restarts.total),
        (&None, 0)
    );

    let plan = reconcile(&mut run, &from_training(nothing(2), both));
    assert_eq!(created(&plan), Some("muge-scores-align-20-1"));
    let skipped = &run.status.as_ref().unwrap().history[1];
    assert_eq!(
        (skipped.name.as_str(), skipped.state),
        ("align-10", StageState::Skipped)
    );

    assert!(
        skipped
            .message
            .as_ref()
            .unwrap()
            .contains("raise spec.checkpoint.keep"),
        "{skipped:?}"
    );
}

#[test]
fn each_checkpoint_has_its_own_retries() {
    let mut run = series();
    for step in [10, 20, 30] {
        let newest = training(&[checkpoint("align", step)], None);
        let stage = format!("align-{step}");
        let seconds = step * 100;
        let uri = format!("s3://runs/muge/align/checkpoints/{step}-1");
        reconcile(&mut run, &from_training(nothing(seconds), newest.clone()));

        for attempt in 1..=2 {
            let observed = at_work(seconds + 1, &stage, attempt, ended_state(137, "Error", ""));
            let plan = reconcile(&mut run, &from_training(observed, newest.clone()));
            assert_eq!(
                why(&plan.status, "Failed"),
                "False NotFailed",
                "{step}, {attempt}"
            );
        }

        let report = scored(&run, &stage, &uri, 50.0);
        let report = ProgressReport {
            run: RunRef::from_run(&run).attempt_identity(&stage, 3),
            ..report
        };

        let observed = ObservedState {
            report: Some(report),
            ..done(seconds + 9, &stage, 3)
        };

        reconcile(&mut run, &from_training(observed, newest));
    }

    let restarts = &run.status.as_ref().unwrap().restarts;
    assert_eq!(
        (
            restarts.total,
            restarts.application,
            restarts.infrastructure
        ),
        (6, 0, 0)
    );
}

#[test]
fn what_else_goes_wrong_with_a_checkpoint_is_a_failure() {
    let mut run = series();
    let one = training(&[checkpoint("align", 10)], None);
    reconcile(&mut run, &from_training(nothing(0), one.clone()));
    let observed = at_work(
        1,
        "align-10",
        1,
        ended_state(78, "Error", "the data set is not there"),
    );

    let plan = reconcile(&mut run, &from_training(observed, one));
    assert_eq!(why(&plan.status, "Failed"), "True Config");
}

#[test]
fn the_objects_of_old_checkpoints_go_and_the_record_is_bounded() {
    let mut run = series();
    for step in 1..=60 {
        let newest = training(&[checkpoint("align", step)], None);
        let stage = format!("align-{step}");
        let uri = format!("s3://runs/muge/align/checkpoints/{step}-1");
        let observed = ObservedState {
            jobs: [step - 2, step - 1]
                .into_iter()
                .filter(|old| *old > 0)
                .map(|old| job_in(&format!("align-{old}"), 1, JobState::Complete))
                .collect(),
            ..nothing(step)
        };

        let plan = reconcile(&mut run, &from_training(observed, newest.clone()));
        let expected: Vec<_> = (step > 2)
            .then(|| format!("muge-scores-align-{}-1", step - 2))
            .into_iter()
            .collect();

        assert_eq!(plan.remove, expected, "the last stays for its logs");
        let at_the_end = well(&run, step, &stage, &uri, 50.0);
        reconcile(&mut run, &from_training(at_the_end, newest));
    }

    let history = &run.status.as_ref().unwrap().history;
    assert_eq!(
        (history.len(), history[0].step, history[49].step),
        (50, 60, 11)
    );
}

#[test]
fn results_of_one_checkpoint_stay_until_those_of_the_next_are_whole() {
    let mut run = series();
    let first = training(&[checkpoint("align", 10)], None);
    let uri = "s3://runs/muge/align/checkpoints/10-1";
    let at_the_end = well(&run, 2, "align-10", uri, 50.0);
    reconcile(&mut run, &from_training(at_the_end, first));
    let second = training(&[checkpoint("align", 20), checkpoint("align", 10)], None);
    let mut observed = at_work(3, "align-20", 1, WorkerState::Running);
    let next = scored(
        &run,
        "align-20",
        "s3://runs/muge/align/checkpoints/20-1",
        60.0,
    );

    observed.report = Some(ProgressReport {
        activity: TrainerActivity::Evaluating,
        step: 0,
        results: vec![],
        ..next
    });

    reconcile(&mut run, &from_training(observed, second));
    let status = run.status.as_ref().unwrap();
    assert_eq!(status.summary.as_ref().unwrap().score, "50.00");
    assert_eq!(status.provenance.as_ref().unwrap().checkpoint, uri);
    assert_eq!(status.checkpoint.as_deref(), None);
}
