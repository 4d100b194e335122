use cnclip_crds::trainer_config::EvaluateConfig;
use serde_json::{Value, json};

use super::*;
use crate::{manifest_fixtures, resolved_run::TrainerConfig};

fn observed(status: Value) -> ObservedState {
    let mut training = manifest_fixtures::sample_training();
    training.status = Some(serde_json::from_value(status).unwrap());
    ObservedState {
        training: Some(training),
        ..ObservedState::default()
    }
}

fn condition(type_: &str) -> Value {
    json!([{"type": type_, "status": "True", "reason": "Because", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

fn config(resolved: &ResolvedRun) -> &EvaluateConfig {
    match &resolved.stages[0].config {
        TrainerConfig::Evaluate(config) => config,
        TrainerConfig::Train(_) => panic!("an evaluation scores"),
    }
}

#[test]
fn an_evaluation_says_what_it_waits_for() {
    let checkpoint = json!([{"stage": "align", "step": 5, "uri": "s3://runs/muge/align/checkpoints/5",
                             "digest": "d", "writtenAt": "2026-01-01T00:00:00Z"}]);
    let rows = [
        ("Complete", json!({}), Some("TrainingNotComplete")),
        (
            "Complete",
            json!({"checkpoints": checkpoint}),
            Some("TrainingNotComplete"),
        ),
        (
            "Complete",
            json!({"conditions": condition("Failed")}),
            Some("TrainingFailed"),
        ),
        (
            "Complete",
            json!({"conditions": condition("Complete")}),
            None,
        ),
        ("FirstCheckpoint", json!({}), Some("NoCheckpoint")),
        ("FirstCheckpoint", json!({"checkpoints": checkpoint}), None),
    ];
    for (when, status, expected) in rows {
        let source = json!({"trainingName": "muge", "when": when});
        let run = manifest_fixtures::sample_evaluation_with("/checkpoint", source);
        let resolved = run
            .resolve_run(
                &observed(status.clone()),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        assert_eq!(
            resolved.blocked_on.map(|cause| cause.reason),
            expected,
            "{when} {status}"
        );
    }
    let resolved = manifest_fixtures::sample_evaluation()
        .resolve_run(
            &ObservedState::default(),
            &manifest_fixtures::trainer_defaults(),
        )
        .unwrap();
    assert_eq!(resolved.blocked_on.unwrap().reason, "TrainingMissing");
}

#[test]
fn what_an_evaluation_leaves_out_is_its_trainings() {
    let observed = observed(json!({"conditions": condition("Complete")}));
    let resolved = manifest_fixtures::sample_evaluation()
        .resolve_run(&observed, &manifest_fixtures::trainer_defaults())
        .unwrap();

    assert_eq!(resolved.secret.as_deref(), Some("s3"));
    assert_eq!(resolved.artifacts, "s3://runs/muge/evaluations/muge-scores");
    assert_eq!(
        resolved.workers.resources,
        manifest_fixtures::sample_training().spec.workers.resources
    );

    assert_eq!(config(&resolved).checkpoint, "s3://runs/muge/tune");
}

#[test]
fn a_vocabulary_of_its_own_is_read_instead_of_its_trainings() {
    let mut training = manifest_fixtures::sample_training();
    let file = |uri| serde_json::from_value(json!({"uri": uri})).unwrap();
    training.spec.model.vocabulary = Some(file("s3://data/trainings.txt"));
    let observed = ObservedState {
        training: Some(training),
        ..ObservedState::default()
    };

    let vocabulary_uri = |run: &CnClipEvaluation| {
        let resolved = run
            .resolve_run(&observed, &manifest_fixtures::trainer_defaults())
            .unwrap();
        config(&resolved).vocabulary.clone().unwrap().uri
    };

    assert_eq!(
        vocabulary_uri(&manifest_fixtures::sample_evaluation()),
        "s3://data/trainings.txt"
    );
    let own = manifest_fixtures::sample_evaluation_with(
        "/vocabulary",
        json!({"uri": "s3://data/own.txt"}),
    );
    assert_eq!(vocabulary_uri(&own), "s3://data/own.txt");
}

#[test]
fn an_evaluation_takes_one_of_its_trainings_workers_or_all_that_it_asks_for() {
    let mut training = manifest_fixtures::sample_training();
    (
        training.spec.workers.replicas,
        training.spec.workers.devices,
    ) = (3, 2);

    let observed = ObservedState {
        training: Some(training),
        ..ObservedState::default()
    };

    let sizes = |run: &CnClipEvaluation| {
        let resolved = run
            .resolve_run(&observed, &manifest_fixtures::trainer_defaults())
            .unwrap();
        let world = &config(&resolved).world;
        assert_eq!(
            (world.replicas, world.devices),
            (resolved.workers.replicas, resolved.workers.devices)
        );

        (world.replicas, world.devices)
    };

    assert_eq!(sizes(&manifest_fixtures::sample_evaluation()), (1, 2));
    let workers = json!({"replicas": 4, "devices": 3, "accelerator": "Nvidia"});
    assert_eq!(
        sizes(&manifest_fixtures::sample_evaluation_with(
            "/workers", workers
        )),
        (4, 3)
    );
}

#[test]
fn what_is_scored_stays_once_it_is_on_record() {
    let mut run = manifest_fixtures::sample_evaluation();
    run.status =
        Some(serde_json::from_value(json!({"checkpoint": "s3://old", "attempt": 1})).unwrap());
    let resolved = run
        .resolve_run(&observed(json!({})), &manifest_fixtures::trainer_defaults())
        .unwrap();

    assert_eq!(resolved.blocked_on, None);
    assert_eq!(config(&resolved).checkpoint, "s3://old");
}

#[test]
fn a_classification_is_told_whole() {
    let asked = json!({"dataset": "s3://data/pets/", "preset": "oxford-iiit-pets",
                       "templateSet": "Pet", "templates": "s3://data/pets.txt", "metric": "top5"});
    let tasks = json!([{"name": "pets", "zeroShot": asked}]);
    let run = manifest_fixtures::sample_evaluation_with("/tasks", tasks);
    let resolved = run
        .resolve_run(&observed(json!({})), &manifest_fixtures::trainer_defaults())
        .unwrap();
    let passed = serde_json::to_value(&config(&resolved).tasks[0].zero_shot).unwrap();
    assert_eq!(passed, asked);
}
