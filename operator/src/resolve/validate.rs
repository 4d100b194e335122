//! Validation of manifests. The CRD schema rejects most invalid manifests at admission; this covers what a
//! schema cannot express, and objects stored under an older schema. Pure.

use cnclip_crds::{
    evaluation::{CnClipEvaluationSpec, GateSpec},
    field_problem::FieldProblem,
    model::ModelConfig,
    tasks::{GATE_METRIC_MESSAGE, TaskSpec},
    trainer_config::TrainConfig,
    training::{CnClipTrainingSpec, DecimalField, ModelSpec, StageSpec},
};

use crate::resolved_run::StatusReason;

/// Validates what only the manifest of a training has: references by name, alternatives, decimals written as
/// text. The rules of the values are those of [`TrainConfig::problems`], see [`validate_stage_config`].
///
/// # Errors
/// The first violated constraint.
pub fn validate_training(spec: &CnClipTrainingSpec) -> Result<(), StatusReason> {
    for (index, stage) in spec.stages.iter().enumerate() {
        let path = format!("spec.stages[{index}]");
        validate_decimals(&path, stage)?;
        validate_length(&path, stage)?;

        for (field, name) in referenced_datasets(stage) {
            validate_dataset(spec, &format!("{path}.{field}"), name)?;
        }
    }

    Ok(())
}

/// Validates the trainer configuration that a stage of a manifest resolves to.
///
/// # Errors
/// The first violated constraint, with the path of its field in the manifest.
pub fn validate_stage_config(index: usize, config: &TrainConfig) -> Result<(), StatusReason> {
    // The rendezvous address is that of an attempt's Service, so a resolved stage has none yet.
    let problem = config
        .problems()
        .into_iter()
        .find(|problem| problem.path != "world.coordinator");

    problem.map_or(Ok(()), |FieldProblem { path, message }| {
        let path = manifest_path(index, &path);
        Err(invalid_spec(format!("{path} {message}")))
    })
}

/// The path in a manifest of a field of the trainer configuration of one of its stages.
fn manifest_path(stage_index: usize, config_path: &str) -> String {
    let stage = format!("spec.stages[{stage_index}]");
    let (group, field) = config_path.split_once('.').unwrap_or((config_path, ""));

    match group {
        "model" => format!("spec.model.custom.{field}"),
        "contextLength" => "spec.model.contextLength".to_owned(),
        "world" => "spec.workers".to_owned(),
        "checkpoint" => format!("spec.{config_path}"),
        "reportEverySteps" => format!("spec.{config_path}"),
        "maxSkippedPercent" => format!("spec.{config_path}"),
        "optimizer" => format!("{stage}.{field}"),
        _ => format!("{stage}.{config_path}"),
    }
}

/// Validates the manifest of an evaluation.
///
/// # Errors
/// The first violated constraint.
pub fn validate_evaluation(spec: &CnClipEvaluationSpec) -> Result<(), StatusReason> {
    let source = &spec.checkpoint;
    if source.training_name.is_some() == source.uri.is_some() {
        return Err(invalid_spec(
            "spec.checkpoint must have exactly one of trainingName and uri",
        ));
    }

    if source.uri.is_some() && spec.artifacts.is_none() {
        return Err(invalid_spec(
            "spec.artifacts must be given when the checkpoint is a uri",
        ));
    }

    spec.gate
        .as_ref()
        .map_or(Ok(()), |found| validate_gate(found, &spec.tasks))
}

fn validate_gate(gate: &GateSpec, tasks: &[TaskSpec]) -> Result<(), StatusReason> {
    let Some(task) = tasks.iter().find(|task| task.name == gate.task) else {
        let known: Vec<_> = tasks.iter().map(|task| task.name.as_str()).collect();

        let known = known.join(", ");
        let found = &gate.task;
        return Err(invalid_spec(format!(
            "spec.gate.task must be the name of one of spec.tasks ({known}), found {found:?}"
        )));
    };

    if !task.is_kind(gate.metric.task_kind()) {
        return Err(invalid_spec(format!(
            "spec.{GATE_METRIC_MESSAGE}; found {}",
            gate.metric
        )));
    }

    let percent = |text: &str| {
        let found = parse_decimal(text);
        found.is_some_and(|found| (0.0..=100.0).contains(&found))
    };

    match (&gate.at_least, &gate.not_worse_than) {
        (Some(least), None) if percent(least) => Ok(()),
        (None, Some(baseline)) if percent(&baseline.tolerance) => Ok(()),
        (Some(_), None) | (None, Some(_)) => Err(invalid_spec(
            "spec.gate: atLeast and tolerance must be decimals from 0 to 100 such as \"76\"",
        )),
        _ => Err(invalid_spec(
            "spec.gate must have exactly one of atLeast and notWorseThan",
        )),
    }
}

/// The tower configuration of a model.
///
/// # Errors
/// If the architecture is `Custom` without a tower configuration.
pub fn resolve_model(model: &ModelSpec) -> Result<ModelConfig, StatusReason> {
    let published = model.architecture.published_model();
    published
        .or_else(|| model.custom.clone())
        .ok_or_else(|| invalid_spec("spec.model.custom must be given when architecture is Custom"))
}

/// A finite decimal that a manifest writes as text, because Kubernetes' API conventions avoid floating-point
/// fields.
///
/// # Examples
/// ```
/// use cnclip_operator::resolve::validate::parse_decimal;
///
/// assert_eq!(parse_decimal("2e-5"), Some(2e-5));
/// assert_eq!(parse_decimal("1e999"), None, "infinite");
/// ```
pub fn parse_decimal(text: &str) -> Option<f64> {
    // Rust also parses `inf` and `NaN`, which no field allows.
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// Every decimal of a stage that is written as text must be one.
fn validate_decimals(path: &str, stage: &StageSpec) -> Result<(), StatusReason> {
    let mut fields = stage.decimal_fields().into_iter();
    let invalid = fields.find(|field| parse_decimal(field.text).is_none());
    invalid.map_or(Ok(()), |DecimalField { name, text }| {
        Err(invalid_spec(format!(
            "{path}.{name} must be a decimal such as \"1e-4\", found {text:?}"
        )))
    })
}

fn validate_length(path: &str, stage: &StageSpec) -> Result<(), StatusReason> {
    // Of a length in epochs only the trainer knows the steps: it checks the warm-up against the data set.
    match (stage.epochs, stage.steps) {
        (Some(_), None) => Ok(()),
        (None, Some(steps)) if stage.warmup_steps < steps => Ok(()),
        (None, Some(steps)) => Err(invalid_spec(format!(
            "{path}.warmupSteps must be less than steps, found {} of {steps}",
            stage.warmup_steps
        ))),
        _ => Err(invalid_spec(format!(
            "{path} must have exactly one of epochs and steps"
        ))),
    }
}

fn referenced_datasets(stage: &StageSpec) -> impl Iterator<Item = (&'static str, &str)> {
    let validation = stage.validation.as_ref();
    let validation = validation.map(|found| ("validation.dataset", found.dataset.as_str()));
    std::iter::once(("dataset", stage.dataset.as_str())).chain(validation)
}

fn validate_dataset(spec: &CnClipTrainingSpec, path: &str, name: &str) -> Result<(), StatusReason> {
    if spec.datasets.iter().any(|dataset| dataset.name == name) {
        return Ok(());
    }

    let known: Vec<_> = spec
        .datasets
        .iter()
        .map(|dataset| dataset.name.as_str())
        .collect();

    Err(invalid_spec(format!(
        "{path} must be the name of one of spec.datasets ({}), found {name:?}",
        known.join(", ")
    )))
}

fn invalid_spec(message: impl Into<String>) -> StatusReason {
    StatusReason::new("Invalid", message)
}

#[cfg(test)]
mod tests {
    use cnclip_crds::training::CnClipTraining;
    use serde_json::{Value, json};

    use super::*;
    use crate::{manifest_fixtures, observed::ObservedState, resolve::RunResource};

    fn resolve(run: &CnClipTraining) -> Result<(), StatusReason> {
        let defaults = manifest_fixtures::trainer_defaults();
        run.resolve_run(&ObservedState::default(), &defaults)
            .map(|_| ())
    }

    #[test]
    fn invalid_fields_are_reported_with_path_and_value() {
        let rows = [
            (
                "/stages/0/learningRate",
                json!("fast"),
                "stages[0].learningRate must be a decimal such as \"1e-4\", found \"fast\"",
            ),
            (
                "/stages/1/learningRate",
                json!("0"),
                "stages[1].learningRate is 0; it must be positive.",
            ),
            ("/stages/0/learningRate", json!("1e999"), "found \"1e999\""),
            (
                "/stages/0/weightDecay",
                json!("-1"),
                "stages[0].weightDecay is -1; it must be at least 0.",
            ),
            (
                "/stages/0/maxGradientNorm",
                json!("0"),
                "stages[0].maxGradientNorm is 0; it must be positive.",
            ),
            (
                "/stages/1/averageDecay",
                json!("1"),
                "stages[1].averageDecay is 1; it must be between 0 and 1.",
            ),
            (
                "/stages/1/distillation",
                json!({"teacher": "s3://a/b", "weight": "-1"}),
                "stages[1].distillation.weight is -1; it must be positive.",
            ),
            (
                "/stages/0/distillation",
                json!({"teacher": "s3://a/b"}),
                "stages[0].distillation trains the image tower, but freeze is Image.",
            ),
            (
                "/stages/1/microBatchSize",
                json!(17),
                "stages[1].microBatchSize is 17; it must be at most a device's share of globalBatchSize, which \
                 is 16.",
            ),
            (
                "/stages/0/microBatchSize",
                json!(33),
                "stages[0].microBatchSize is 33; it must be at most",
            ),
            (
                "/stages/0/epochs",
                json!(3),
                "stages[0] must have exactly one of epochs and steps",
            ),
            (
                "/stages/0/warmupSteps",
                json!(100),
                "warmupSteps must be less than steps, found 100 of 100",
            ),
            (
                "/stages/1/dataset",
                json!("nowhere"),
                "stages[1].dataset must be the name of one of spec.datasets (pairs, valid), found \"nowhere\"",
            ),
            (
                "/stages/0/validation",
                json!({"dataset": "x", "everySteps": 5}),
                "validation.dataset must be",
            ),
            (
                "/workers/replicas",
                json!(3),
                "stages[0].globalBatchSize is 32, which 3 devices cannot share equally. Set it to 33",
            ),
            (
                "/workers",
                json!({"replicas": 4, "devices": 3}),
                "stages[0].globalBatchSize is 32, which 12 devices cannot share equally",
            ),
            (
                "/model",
                json!({"architecture": "Custom", "custom": {
                    "embedDim": 0,
                    "image": {"resolution": 32},
                    "text": {"layers": 1, "width": 8, "heads": 1, "intermediate": 8},
                }}),
                "spec.model.custom.embedDim is 0; it must be at least 1",
            ),
            (
                "/model",
                json!({"architecture": "Custom"}),
                "spec.model.custom must be given",
            ),
        ];

        for (path, value, expected) in rows {
            let run = manifest_fixtures::sample_training_with(path, value.clone());
            let found = resolve(&run).expect_err(path).message;
            assert!(found.contains(expected), "{path} = {value}: {found}");
        }
    }

    #[test]
    fn valid_manifests_are_accepted() {
        assert_eq!(resolve(&manifest_fixtures::sample_training()), Ok(()));
        assert_eq!(
            resolve(&manifest_fixtures::sample_training_with(
                "/workers/replicas",
                json!(4)
            )),
            Ok(())
        );

        assert_eq!(
            validate_evaluation(&manifest_fixtures::sample_evaluation().spec),
            Ok(())
        );
    }

    #[test]
    fn invalid_gates_are_reported() {
        let gate = |change: (&str, Value)| {
            let mut gate = json!({"task": "valid", "metric": "textToImage.r1", "atLeast": "76"});
            gate[change.0] = change.1;
            manifest_fixtures::sample_evaluation_with("/gate", gate).spec
        };

        let decimal = "must be decimals from 0 to 100";
        let rows = [
            (
                ("task", json!("muge")),
                "one of spec.tasks (valid), found \"muge\"",
            ),
            (
                ("metric", json!("accuracy")),
                "one of the task's kind: textToImage",
            ),
            (("atLeast", json!("101")), decimal),
            (("atLeast", json!("high")), decimal),
            (
                ("atLeast", Value::Null),
                "exactly one of atLeast and notWorseThan",
            ),
            (
                ("notWorseThan", json!({"evaluationName": "old"})),
                "exactly one of atLeast and",
            ),
        ];

        for (change, expected) in rows {
            let found = validate_evaluation(&gate(change.clone()))
                .expect_err(expected)
                .message;
            assert!(found.contains(expected), "{change:?}: {found}");
        }

        assert_eq!(
            validate_evaluation(&gate(("metric", json!("imageToText.meanRecall")))),
            Ok(())
        );
    }

    #[test]
    fn evaluations_without_artifact_prefix_are_rejected() {
        let rows = [
            (
                "/checkpoint",
                json!({"uri": "s3://a/b"}),
                "spec.artifacts must be given",
            ),
            (
                "/checkpoint",
                json!({}),
                "exactly one of trainingName and uri",
            ),
        ];

        for (path, value, expected) in rows {
            let spec = manifest_fixtures::sample_evaluation_with(path, value).spec;
            let found = validate_evaluation(&spec).expect_err(path).message;
            assert!(found.contains(expected), "{path}: {found}");
        }
    }
}
