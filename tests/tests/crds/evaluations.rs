//! The validation rules of CnClipEvaluation.

use serde_json::{Value, json};

use crate::rule::{ANY_STORE, ANY_WEIGHTS, Rule, rule};

/// A valid evaluation.
pub(crate) fn evaluation() -> Value {
    json!({
        "apiVersion": "cnclip.dev/v1alpha1", "kind": "CnClipEvaluation", "metadata": {"name": "sample"},
        "spec": {
            "checkpoint": {"trainingName": "sample"},
            "tasks": [{"name": "valid", "retrieval": {"dataset": "s3://data/valid/"}}],
        },
    })
}

/// A classification with one more of its fields.
fn zero_shot(field: &str, value: Value) -> Value {
    json!({"name": "digits", "zeroShot": {"dataset": "s3://data/digits/", field: value}})
}

fn gate() -> Value {
    json!({"task": "valid", "metric": "textToImage.r1", "atLeast": "76"})
}

fn baseline_gate(name: &str) -> Value {
    json!({"task": "valid", "metric": "textToImage.r1", "notWorseThan": {"evaluationName": name}})
}

/// All rules.
pub(crate) fn rules() -> Vec<Rule> {
    let name = "metadata.name must be at most 32 lower-case letters, digits and dashes and begin with a letter";
    let elsewhere = json!({"uri": "s3://runs/x/checkpoints/5"});
    let artifacts = json!({"uri": "s3://scores/"});
    vec![
        rule(
            name,
            vec![("/metadata/name", json!("a-1"))],
            vec![("/metadata/name", json!("a.b"))],
        ),
        rule(
            "artifacts must be given when the checkpoint is a uri",
            vec![
                ("/spec/checkpoint", elsewhere.clone()),
                ("/spec/artifacts", artifacts.clone()),
            ],
            vec![("/spec/checkpoint", elsewhere)],
        ),
        rule(
            "give exactly one of trainingName and uri",
            vec![("/spec/checkpoint/when", json!("FirstCheckpoint"))],
            vec![("/spec/checkpoint/uri", json!("s3://a/b"))],
        ),
        rule(
            "give exactly one of trainingName and uri",
            vec![],
            vec![
                ("/spec/checkpoint", json!({})),
                ("/spec/artifacts", artifacts.clone()),
            ],
        ),
        rule(
            ANY_STORE,
            vec![("/spec/tasks/0/retrieval/dataset", json!("gs://a/b"))],
            vec![("/spec/tasks/0/retrieval/dataset", json!("muge"))],
        ),
        rule(
            ANY_WEIGHTS,
            vec![
                ("/spec/checkpoint", json!({"uri": "hf://org/name"})),
                ("/spec/artifacts", artifacts.clone()),
            ],
            vec![
                ("/spec/checkpoint", json!({"uri": "a"})),
                ("/spec/artifacts", artifacts),
            ],
        ),
        rule(
            "supported values: \"Complete\", \"FirstCheckpoint\"",
            vec![("/spec/checkpoint/when", json!("Complete"))],
            vec![("/spec/checkpoint/when", json!("Soon"))],
        ),
        rule(
            "Unsupported value: \"Csv\"",
            vec![("/spec/features", json!(["Jsonl", "Npy", "Parquet"]))],
            vec![("/spec/features", json!(["Csv"]))],
        ),
        rule(
            "should be less than or equal to 100",
            vec![(
                "/spec/tasks/0/retrieval/calibration",
                json!({"precisionPercent": 100}),
            )],
            vec![(
                "/spec/tasks/0/retrieval/calibration",
                json!({"precisionPercent": 101}),
            )],
        ),
        rule(
            "Unsupported value: \"Muge\"",
            vec![("/spec/tasks/0/retrieval/benchmark", json!("MugeValid"))],
            vec![("/spec/tasks/0/retrieval/benchmark", json!("Muge"))],
        ),
        rule(
            "give exactly one of retrieval and zeroShot",
            vec![("/spec/tasks/0", zero_shot("preset", json!("mnist")))],
            vec![("/spec/tasks/0/retrieval", Value::Null)],
        ),
        rule(
            ANY_STORE,
            vec![(
                "/spec/tasks/0",
                zero_shot("templates", json!("https://host/templates.txt")),
            )],
            vec![(
                "/spec/tasks/0",
                zero_shot("templates", json!("templates.txt")),
            )],
        ),
        rule(
            "give at most one of templates and templateSet",
            vec![("/spec/tasks/0", zero_shot("templateSet", json!("Pet")))],
            vec![
                ("/spec/tasks/0", zero_shot("templateSet", json!("Pet"))),
                (
                    "/spec/tasks/0/zeroShot/templates",
                    json!("s3://data/pets.txt"),
                ),
            ],
        ),
        rule(
            "must be accuracy, top5, meanPerClass, rocAuc or meanAveragePrecision",
            vec![("/spec/tasks/0", zero_shot("metric", json!("top5")))],
            vec![(
                "/spec/tasks/0",
                zero_shot("metric", json!("textToImage.r1")),
            )],
        ),
        rule(
            "gate.task must be the name of one of spec.tasks",
            vec![("/spec/gate", gate())],
            vec![("/spec/gate", gate()), ("/spec/gate/task", json!("other"))],
        ),
        rule(
            "gate.metric must be one of the task's kind",
            vec![
                ("/spec/gate", gate()),
                ("/spec/gate/metric", json!("imageToText.meanRecall")),
            ],
            vec![
                ("/spec/gate", gate()),
                ("/spec/gate/metric", json!("accuracy")),
            ],
        ),
        rule(
            "supported values: \"textToImage.r1\"",
            vec![],
            vec![("/spec/gate", gate()), ("/spec/gate/metric", json!("R@1"))],
        ),
        rule(
            "must be a decimal from 0 to 100 such as \"76\"",
            vec![
                ("/spec/gate", gate()),
                ("/spec/gate/atLeast", json!("58.4")),
            ],
            vec![
                ("/spec/gate", gate()),
                ("/spec/gate/atLeast", json!("100.5")),
            ],
        ),
        rule(
            "give exactly one of atLeast and notWorseThan",
            vec![("/spec/gate", baseline_gate("baseline"))],
            vec![
                ("/spec/gate", baseline_gate("baseline")),
                ("/spec/gate/atLeast", json!("1")),
            ],
        ),
        rule(
            "must be a decimal from 0 to 100 such as \"0.5\"",
            vec![
                ("/spec/gate", baseline_gate("baseline")),
                ("/spec/gate/notWorseThan/tolerance", json!("0.5")),
            ],
            vec![
                ("/spec/gate", baseline_gate("baseline")),
                ("/spec/gate/notWorseThan/tolerance", json!("-1")),
            ],
        ),
        rule(
            "gate.notWorseThan must name another evaluation",
            vec![("/spec/gate", baseline_gate("other"))],
            vec![("/spec/gate", baseline_gate("sample"))],
        ),
        rule(
            "trigger EveryCheckpoint needs checkpoint.trainingName",
            vec![("/spec/trigger", json!("EveryCheckpoint"))],
            vec![
                ("/spec/trigger", json!("EveryCheckpoint")),
                (
                    "/spec/checkpoint",
                    json!({"uri": "s3://runs/x/checkpoints/5"}),
                ),
                ("/spec/artifacts", json!({"uri": "s3://scores/"})),
            ],
        ),
        rule(
            "leave checkpoint.when out where trigger is EveryCheckpoint",
            vec![("/spec/trigger", json!("Once"))],
            vec![
                ("/spec/trigger", json!("EveryCheckpoint")),
                ("/spec/checkpoint/when", json!("FirstCheckpoint")),
            ],
        ),
        rule(
            "duplicate entries for key",
            vec![],
            vec![("/spec/tasks/1", evaluation()["spec"]["tasks"][0].clone())],
        ),
    ]
}

/// The fields of an existing object that must not change.
pub(crate) fn immutable_fields() -> Vec<Rule> {
    vec![
        rule(
            "is immutable: another checkpoint is another evaluation",
            vec![("/spec/suspend", json!(true))],
            vec![("/spec/checkpoint/trainingName", json!("other"))],
        ),
        rule(
            "is immutable: another trigger is another evaluation",
            vec![("/spec/gate", gate())],
            vec![("/spec/trigger", json!("EveryCheckpoint"))],
        ),
        rule(
            "is immutable: another task is another evaluation",
            vec![("/spec/batchSize", json!(8))],
            vec![("/spec/tasks/0/name", json!("other"))],
        ),
    ]
}
