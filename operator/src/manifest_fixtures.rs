//! Test fixtures: manifests.

use cnclip_crds::{evaluation::CnClipEvaluation, training::CnClipTraining};
use serde_json::{Value, json};

use crate::{
    objects::AttemptObjects,
    observed::ObservedState,
    resolve::{RunRef, RunResource, TrainerDefaults},
    resolved_run::Attempt,
};

/// Defaults of the operator.
pub(crate) fn trainer_defaults() -> TrainerDefaults {
    TrainerDefaults {
        image: "cnclip/trainer:test".to_owned(),
        cuda_image: "cnclip/trainer-cuda:test".to_owned(),
        progress_interval_seconds: 5,
    }
}

/// A training with two stages.
pub(crate) fn sample_training() -> CnClipTraining {
    serde_json::from_value(training_json()).expect("the sample is a training")
}

/// The sample training with one changed value of its spec.
pub(crate) fn sample_training_with(path: &str, value: Value) -> CnClipTraining {
    serde_json::from_value(with_spec_value(training_json(), path, value))
        .expect("the change fits the type")
}

/// An evaluation of the sample training.
pub(crate) fn sample_evaluation() -> CnClipEvaluation {
    serde_json::from_value(evaluation_json()).expect("the sample is an evaluation")
}

/// The sample evaluation with one changed value of its spec.
pub(crate) fn sample_evaluation_with(path: &str, value: Value) -> CnClipEvaluation {
    serde_json::from_value(with_spec_value(evaluation_json(), path, value))
        .expect("the change fits the type")
}

fn with_spec_value(mut manifest: Value, path: &str, value: Value) -> Value {
    let (parent, key) = path.rsplit_once('/').expect("a path begins with a slash");
    let parent = manifest
        .pointer_mut(&format!("/spec{parent}"))
        .expect("the parent is there");

    match parent {
        Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
        parent => parent[key] = value,
    }

    manifest
}

fn training_json() -> Value {
    json!({
        "apiVersion": "cnclip.dev/v1alpha1",
        "kind": "CnClipTraining",
        "metadata": {
            "name": "muge",
            "namespace": "team",
            "uid": "u-1",
            "generation": 1,
        },
        "spec": {
            "model": {
                "architecture": "ViT-B-16",
                "initialWeights": {"image": "s3://models/clip.pt"},
            },
            "datasets": [
                {"name": "pairs", "uri": "s3://data/pairs/"},
                {"name": "valid", "uri": "s3://data/valid/"},
            ],
            "stages": [
                {
                    "name": "align",
                    "dataset": "pairs",
                    "freeze": "Image",
                    "steps": 100,
                    "globalBatchSize": 32,
                    "learningRate": "1e-4",
                    "warmupSteps": 10,
                },
                {
                    "name": "tune",
                    "dataset": "pairs",
                    "epochs": 2,
                    "globalBatchSize": 16,
                    "learningRate": "2e-5",
                    "validation": {"dataset": "valid", "everySteps": 50},
                },
            ],
            "workers": {
                "accelerator": "None",
                "resources": {"limits": {"cpu": 2, "memory": "4Gi"}},
            },
            "artifacts": {
                "uri": "s3://runs/muge/",
                "credentials": {"secretName": "s3"},
            },
        },
    })
}

fn evaluation_json() -> Value {
    json!({
        "apiVersion": "cnclip.dev/v1alpha1",
        "kind": "CnClipEvaluation",
        "metadata": {"name": "muge-scores", "namespace": "team", "uid": "u-2", "generation": 1},
        "spec": {
            "checkpoint": {"trainingName": "muge"},
            "tasks": [{"name": "valid", "retrieval": {"dataset": "s3://data/valid/"}}],
        },
    })
}

/// Objects of the third attempt at the first stage of a run.
pub(crate) fn attempt_objects(run: &impl RunResource, observed: &ObservedState) -> AttemptObjects {
    let resolved = run.resolve_run(observed, &trainer_defaults()).unwrap();
    let attempt = Attempt {
        number: 3,
        halve_micro_batch: false,
    };

    AttemptObjects::for_attempt(
        &RunRef::from_run(run),
        &resolved,
        &resolved.stages[0],
        attempt,
        observed.drawn_secret.as_ref(),
    )
}
