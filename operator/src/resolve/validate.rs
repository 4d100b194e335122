//! What in a manifest can never work. The schema refuses most of it; this is for what a schema cannot
//! say, and for objects stored before it said so. Pure.

use cnclip_crds::{
    common::WorkersSpec,
    evaluation::{CnClipEvaluationSpec, GateSpec},
    model::ModelConfig,
    stage::{FrozenTower, MicroBatch},
    tasks::TaskSpec,
    training::{CnClipTrainingSpec, ModelSpec, StageSpec},
};

use crate::resolved_run::StatusReason;

/// The first thing in a training's manifest that can never work.
///
/// # Errors
/// That thing.
pub fn validate_training(spec: &CnClipTrainingSpec) -> Result<(), StatusReason> {
    resolve_model(&spec.model)?;
    for (index, stage) in spec.stages.iter().enumerate() {
        let path = format!("spec.stages[{index}]");
        validate_decimals(&path, stage)?;
        validate_length(&path, stage)?;
        validate_recipe(&path, stage, &spec.workers)?;

        for (field, name) in referenced_datasets(stage) {
            validate_dataset(spec, &format!("{path}.{field}"), name)?;
        }
    }

    Ok(())
}

/// The first thing in an evaluation's manifest that can never work.
///
/// # Errors
/// That thing.
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
        return Err(invalid_spec(format!(
            "spec.gate.task must be the name of one of spec.tasks ({}), found {:?}",
            known.join(", "),
            gate.task
        )));
    };

    if task.retrieval.is_some() != gate.metric.is_recall() {
        return Err(invalid_spec(format!(
            "spec.gate.metric must be one of the task's kind: textToImage.… and imageToText.… of a \
             retrieval, the others of a zeroShot; found {}",
            gate.metric
        )));
    }

    let percent =
        |text: &str| parse_decimal(text).is_some_and(|found| (0.0..=100.0).contains(&found));
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

/// The towers of a model.
///
/// # Errors
/// When they are to be the user's own and are not given, or cannot be built.
pub fn resolve_model(model: &ModelSpec) -> Result<ModelConfig, StatusReason> {
    let published = model.architecture.published_model();
    let Some(towers) = published.or_else(|| model.custom.clone()) else {
        return Err(invalid_spec(
            "spec.model.custom must be given when architecture is Custom",
        ));
    };

    match towers.validation_error() {
        Some(problem) => Err(invalid_spec(format!("spec.model.custom: {problem}"))),
        None => Ok(towers),
    }
}

/// A decimal that the manifest writes as text.
pub fn parse_decimal(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// Every number that a stage writes as text.
fn validate_decimals(path: &str, stage: &StageSpec) -> Result<(), StatusReason> {
    let decimal = |field: &str, text: Option<&str>, must: &str, fits: fn(f64) -> bool| {
        let unfit = text.filter(|text| !parse_decimal(text).is_some_and(fits));
        let told = |text| format!("{path}.{field} must be a {must}, found {text:?}");
        unfit.map_or(Ok(()), |text| Err(invalid_spec(told(text))))
    };

    let rate = stage.learning_rate.as_str();
    let decay = stage.weight_decay.as_str();
    let norm = stage.max_gradient_norm.as_deref();
    let average = stage.average_decay.as_deref();
    let weight = stage
        .distillation
        .as_ref()
        .map(|distillation| distillation.weight.as_str());

    decimal(
        "learningRate",
        Some(rate),
        "positive decimal such as \"1e-4\"",
        |x| x > 0.0,
    )?;

    decimal(
        "weightDecay",
        Some(decay),
        "decimal of at least 0 such as \"1e-3\"",
        |x| x >= 0.0,
    )?;

    decimal(
        "maxGradientNorm",
        norm,
        "positive decimal such as \"1.0\"",
        |x| x > 0.0,
    )?;

    let part = |x| x > 0.0 && x < 1.0;
    decimal(
        "averageDecay",
        average,
        "decimal between 0 and 1 such as \"0.999\"",
        part,
    )?;

    decimal(
        "distillation.weight",
        weight,
        "positive decimal such as \"0.5\"",
        |x| x > 0.0,
    )
}

fn validate_recipe(
    path: &str,
    stage: &StageSpec,
    workers: &WorkersSpec,
) -> Result<(), StatusReason> {
    let global = i64::from(stage.global_batch_size);
    let ranks = world_size(workers);
    if global % ranks != 0 {
        return Err(invalid_spec(format!(
            "{path}.globalBatchSize must be a multiple of workers.replicas × workers.devices, found \
             {global} for {ranks}"
        )));
    }

    let micro = stage
        .micro_batch_size
        .and_then(MicroBatch::fixed_size)
        .unwrap_or(1);

    let share = global / ranks;
    let micro = i64::from(micro);
    if micro > share {
        return Err(invalid_spec(format!(
            "{path}.microBatchSize must be at most globalBatchSize / (workers.replicas × \
             workers.devices), found {micro} of {share}"
        )));
    }

    if stage.distillation.is_some() && stage.freeze == FrozenTower::Image {
        return Err(invalid_spec(format!(
            "{path}.distillation trains the image tower: freeze must not be Image"
        )));
    }

    Ok(())
}

fn validate_length(path: &str, stage: &StageSpec) -> Result<(), StatusReason> {
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

fn world_size(workers: &WorkersSpec) -> i64 {
    i64::from(workers.replicas.max(1)) * i64::from(workers.devices.max(1))
}

fn invalid_spec(message: impl Into<String>) -> StatusReason {
    StatusReason::new("Invalid", message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::manifest_fixtures;

    #[test]
    fn what_can_never_work_is_told_with_its_place_and_what_was_found() {
        let rows = [
            (
                "/stages/0/learningRate",
                json!("fast"),
                "stages[0].learningRate must be a positive decimal such as \"1e-4\", found \"fast\"",
            ),
            (
                "/stages/1/learningRate",
                json!("0"),
                "stages[1].learningRate must be a positive",
            ),
            ("/stages/0/learningRate", json!("1e999"), "found \"1e999\""),
            (
                "/stages/0/weightDecay",
                json!("-1"),
                "stages[0].weightDecay must be a decimal of at least 0",
            ),
            (
                "/stages/0/maxGradientNorm",
                json!("0"),
                "stages[0].maxGradientNorm must be a positive",
            ),
            (
                "/stages/1/averageDecay",
                json!("1"),
                "stages[1].averageDecay must be a decimal between 0 and 1",
            ),
            (
                "/stages/1/distillation",
                json!({"teacher": "s3://a/b", "weight": "-1"}),
                "stages[1].distillation.weight must be a positive",
            ),
            (
                "/stages/0/distillation",
                json!({"teacher": "s3://a/b"}),
                "stages[0].distillation trains the image tower: freeze must not be Image",
            ),
            (
                "/stages/1/microBatchSize",
                json!(17),
                "microBatchSize must be at most globalBatchSize / (workers.replicas × workers.devices), \
                 found 17 of 16",
            ),
            (
                "/stages/0/microBatchSize",
                json!(33),
                "stages[0].microBatchSize must be at most globalBatchSize /",
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
                "stages[0].globalBatchSize must be a multiple of workers.replicas × workers.devices, \
                 found 32 for 3",
            ),
            (
                "/workers",
                json!({"replicas": 4, "devices": 3}),
                "stages[0].globalBatchSize must be a multiple of workers.replicas × workers.devices, \
                 found 32 for 12",
            ),
            (
                "/model",
                json!({"architecture": "Custom", "custom": {
                    "embedDim": 0,
                    "image": {"resolution": 32},
                    "text": {"layers": 1, "width": 8, "heads": 1, "intermediate": 8},
                }}),
                "spec.model.custom: ",
            ),
            (
                "/model",
                json!({"architecture": "Custom"}),
                "spec.model.custom must be given",
            ),
        ];

        for (path, value, expected) in rows {
            let spec = manifest_fixtures::sample_training_with(path, value.clone()).spec;
            let found = validate_training(&spec).expect_err(path).message;
            assert!(found.contains(expected), "{path} = {value}: {found}");
        }
    }

    #[test]
    fn what_can_work_is_admitted() {
        assert_eq!(
            validate_training(&manifest_fixtures::sample_training().spec),
            Ok(())
        );
        assert_eq!(
            validate_training(
                &manifest_fixtures::sample_training_with("/workers/replicas", json!(4)).spec
            ),
            Ok(())
        );

        assert_eq!(
            validate_evaluation(&manifest_fixtures::sample_evaluation().spec),
            Ok(())
        );
    }

    #[test]
    fn a_gate_must_be_one_that_can_be_judged() {
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
    fn an_evaluation_without_a_place_for_its_results_is_refused() {
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
