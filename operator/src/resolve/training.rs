//! Resolves a `CnClipTraining` to one trainer configuration per stage. Pure.

use cnclip_crds::{
    artifacts,
    common::{VocabularyFile, WorkersSpec},
    model::ModelConfig,
    trainer_config::{
        CheckpointConfig, DistillationConfig, DistributedConfig, OptimizerConfig, PinnedFile,
        RunIdentity, TrainConfig, TrainingLength, ValidationConfig, WeightSources,
        pod_listen_address,
    },
    training::{self, CnClipTraining, CnClipTrainingSpec, CnClipTrainingStatus, InitialWeights},
};
use kube::ResourceExt;

use super::{RunResource, TrainerDefaults, validate};
use crate::{
    observed::ObservedState,
    recorded_status::RecordedStatus,
    resolved_run::{ResolvedRun, ResolvedStage, StatusReason, TrainerConfig},
    status::summary,
};

impl RunResource for CnClipTraining {
    const KIND: &'static str = "training";

    fn resolve_run(
        &self,
        _: &ObservedState,
        defaults: &TrainerDefaults,
    ) -> Result<ResolvedRun, StatusReason> {
        let spec = &self.spec;
        validate::validate_training(spec)?;
        let model = validate::resolve_model(&spec.model)?;
        let stages = (0..spec.stages.len())
            .map(|index| resolve_stage(self, index, &model))
            .collect::<Result<_, _>>()?;

        Ok(ResolvedRun {
            stages,
            workers: spec.workers.clone(),
            image: defaults.trainer_image(&spec.workers),
            secret: spec
                .artifacts
                .credentials
                .as_ref()
                .map(|found| found.secret_name.clone()),
            artifacts: spec.artifacts.uri.clone(),
            policy: spec.run_policy(),
            per_checkpoint: false,
            pending_on: None,
            blocked_on: None,
            gate: None,
        })
    }

    fn recorded_status(&self) -> RecordedStatus {
        let status = self.status.clone().unwrap_or_default();
        RecordedStatus {
            stages: status.stages,
            restarts: status.restarts,
            last_failure: status.last_failure,
            checkpoints: status.checkpoints,
            report: status.report,
            started_at: status.started_at,
            finished_at: status.finished_at,
            observed_generation: status.observed_generation,
            conditions: status.conditions,
            ..RecordedStatus::default()
        }
    }

    fn to_status_json(&self, recorded: &RecordedStatus) -> serde_json::Value {
        let status = CnClipTrainingStatus {
            observed_generation: recorded.observed_generation,
            conditions: recorded.conditions.clone(),
            stages: recorded.stages.clone(),
            restarts: recorded.restarts.clone(),
            last_failure: recorded.last_failure.clone(),
            checkpoints: recorded.checkpoints.clone(),
            report: recorded.report.clone(),
            started_at: recorded.started_at.clone(),
            finished_at: recorded.finished_at.clone(),
            summary: Some(summary::training_summary(recorded)),
        };

        serde_json::to_value(status).unwrap_or_default()
    }

    fn current_status_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.status).unwrap_or_default()
    }
}

fn resolve_stage(
    run: &CnClipTraining,
    index: usize,
    model: &ModelConfig,
) -> Result<ResolvedStage, StatusReason> {
    let spec = &run.spec;
    let stage = &spec.stages[index];
    let config = TrainConfig {
        run: RunIdentity {
            name: run.name_any(),
            uid: run.uid().unwrap_or_default(),
            stage: stage.name.clone(),
            // Replaced by `for_attempt`: a resolved stage is the same for all its attempts.
            attempt: 1,
        },
        optimizer: optimizer_config(stage, model),
        model: model.clone(),
        context_length: spec.model.context_length,
        vocabulary: spec.model.vocabulary.as_ref().map(pinned_file),
        initial_weights: weight_sources(spec, index),
        dataset: dataset_uri(spec, &stage.dataset),
        freeze: stage.freeze,
        length: training_length(stage),
        global_batch_size: stage.global_batch_size,
        micro_batch_size: stage.micro_batch_size,
        halve_micro_batch: false,
        gradient_checkpointing: stage.gradient_checkpointing,
        max_skipped_steps: stage.max_skipped_steps,
        duplicates: stage.duplicates,
        distillation: stage.distillation.as_ref().map(distillation_config),
        augmentation: stage.augmentation,
        synchronize_batch_norm: stage.synchronize_batch_norm,
        masked_patches_percent: stage.masked_patches_percent,
        validation: stage
            .validation
            .as_ref()
            .map(|validation| ValidationConfig {
                dataset: dataset_uri(spec, &validation.dataset),
                every_steps: validation.every_steps,
            }),
        checkpoint: CheckpointConfig {
            every_steps: spec.checkpoint.every_steps,
            every_seconds: spec.checkpoint.every_seconds,
            keep: spec.checkpoint.keep,
        },
        artifacts: spec.artifacts.uri.clone(),
        seed: spec.seed.unsigned_abs(),
        max_skipped_percent: spec.max_skipped_percent.into(),
        world: distributed_config(&spec.workers),
        report_every_steps: spec.report_every_steps,
        listen: Some(pod_listen_address()),
    };

    // By the trainer's own rules, so that no pods are scheduled only to reject their configuration.
    validate::validate_stage_config(index, &config)?;
    Ok(ResolvedStage {
        name: stage.name.clone(),
        config: TrainerConfig::Train(Box::new(config)),
        scored_checkpoint: None,
    })
}

/// # Source
/// The reference's defaults: `--beta1`, `--beta2`, `--eps` by the kind of image tower.
fn optimizer_config(stage: &training::StageSpec, model: &ModelConfig) -> OptimizerConfig {
    let (beta2, epsilon) = if model.image.vit.is_some() {
        (0.98, 1e-6)
    } else {
        (0.999, 1e-8)
    };

    OptimizerConfig {
        // `validate_training` has parsed the decimals before: the fallback is never used.
        learning_rate: validate::parse_decimal(&stage.learning_rate).unwrap_or_default(),
        warmup_steps: stage.warmup_steps,
        weight_decay: validate::parse_decimal(&stage.weight_decay).unwrap_or_default(),
        beta1: 0.9,
        beta2,
        epsilon,
        max_gradient_norm: stage
            .max_gradient_norm
            .as_deref()
            .and_then(validate::parse_decimal),
        average_decay: stage
            .average_decay
            .as_deref()
            .and_then(validate::parse_decimal),
    }
}

fn distillation_config(spec: &training::DistillationSpec) -> DistillationConfig {
    let weight = validate::parse_decimal(&spec.weight).unwrap_or_default();
    DistillationConfig {
        teacher: spec.teacher.clone(),
        weight,
    }
}

/// A stage starts from the resulting checkpoint of the previous stage, which the trainer resolves from the
/// prefix of that stage: its name is not known before the previous stage has ended.
fn weight_sources(spec: &CnClipTrainingSpec, index: usize) -> WeightSources {
    if let Some(previous) = index
        .checked_sub(1)
        .and_then(|previous| spec.stages.get(previous))
    {
        let model = artifacts::stage_prefix(&spec.artifacts.uri, &previous.name);
        return WeightSources {
            model: Some(model),
            ..WeightSources::default()
        };
    }

    let first = spec.model.initial_weights.clone();
    first.map_or_else(
        WeightSources::default,
        |InitialWeights { model, image, text }| WeightSources { model, image, text },
    )
}

fn training_length(stage: &training::StageSpec) -> TrainingLength {
    stage.steps.map_or_else(
        || TrainingLength::Epochs(stage.epochs.unwrap_or(1)),
        TrainingLength::Steps,
    )
}

fn dataset_uri(spec: &CnClipTrainingSpec, name: &str) -> String {
    let dataset = spec.datasets.iter().find(|dataset| dataset.name == name);
    dataset
        .map(|dataset| dataset.uri.clone())
        .unwrap_or_default()
}

/// Workers in the form of a trainer configuration. The coordinator is set per attempt.
pub(super) fn distributed_config(workers: &WorkersSpec) -> DistributedConfig {
    DistributedConfig {
        replicas: workers.replicas,
        devices: workers.devices,
        accelerator: workers.accelerator,
        precision: workers.precision,
        coordinator: None,
    }
}

/// A vocabulary file in the form of a trainer configuration.
pub(super) fn pinned_file(file: &VocabularyFile) -> PinnedFile {
    PinnedFile {
        uri: file.uri.clone(),
        sha256: file.sha256.clone(),
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::stage::{DuplicatePolicy, MicroBatch};
    use serde_json::json;

    use super::*;
    use crate::manifest_fixtures;

    fn config(run: &CnClipTraining, index: usize) -> TrainConfig {
        let resolved = run
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        match &resolved.stages[index].config {
            TrainerConfig::Train(config) => (**config).clone(),
            TrainerConfig::Evaluate(_) => panic!("a training trains"),
        }
    }

    #[test]
    fn a_stage_starts_from_the_previous_stage() {
        let run = manifest_fixtures::sample_training();
        let first = config(&run, 0).initial_weights;
        assert_eq!(first.image.as_deref(), Some("s3://models/clip.pt"));
        assert_eq!(first.model, None);
        let second = config(&run, 1).initial_weights;

        assert_eq!(second.model.as_deref(), Some("s3://runs/muge/align"));
        assert_eq!(second.image, None);
    }

    #[test]
    fn decimals_are_parsed_and_dataset_names_resolved() {
        let tune = config(&manifest_fixtures::sample_training(), 1);
        assert_eq!(tune.optimizer.learning_rate, 2e-5);
        assert_eq!(tune.optimizer.weight_decay, 1e-3);
        assert_eq!(tune.dataset, "s3://data/pairs/");
        assert_eq!(tune.validation.unwrap().dataset, "s3://data/valid/");
        assert_eq!(tune.length, TrainingLength::Epochs(2));
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let plain = config(&manifest_fixtures::sample_training(), 0);
        assert_eq!(
            (
                plain.optimizer.max_gradient_norm,
                plain.optimizer.average_decay
            ),
            (None, None)
        );

        assert_eq!(
            (plain.duplicates, plain.distillation),
            (DuplicatePolicy::Negatives, None)
        );

        assert_eq!(
            (plain.micro_batch_size, plain.gradient_checkpointing),
            (None, None)
        );

        assert_eq!(
            (plain.masked_patches_percent, plain.max_skipped_steps),
            (0, 10)
        );

        let stage = json!({
            "name": "tune", "dataset": "pairs", "epochs": 2, "globalBatchSize": 16, "learningRate": "2e-5",
            "maxGradientNorm": "1.0", "averageDecay": "0.999", "duplicates": "Positives",
            "distillation": {"teacher": "s3://models/large.pt"}, "microBatchSize": 4,
            "gradientCheckpointing": true, "maskedPatchesPercent": 50, "maxSkippedSteps": 3,
        });

        let found = config(
            &manifest_fixtures::sample_training_with("/stages/1", stage),
            1,
        );
        assert_eq!(found.optimizer.max_gradient_norm, Some(1.0));
        assert_eq!(found.optimizer.average_decay, Some(0.999));
        assert_eq!(found.duplicates, DuplicatePolicy::Positives);
        let teacher = DistillationConfig {
            teacher: "s3://models/large.pt".into(),
            weight: 0.5,
        };

        assert_eq!(found.distillation, Some(teacher));
        assert_eq!(found.micro_batch_size, Some(MicroBatch::Pairs(4)));
        assert_eq!(found.gradient_checkpointing, Some(true));
        assert_eq!(
            (found.masked_patches_percent, found.max_skipped_steps),
            (50, 3)
        );
    }

    #[test]
    fn adam_coefficients_depend_on_the_image_tower() {
        for (architecture, beta2, epsilon) in [("ViT-B-16", 0.98, 1e-6), ("RN50", 0.999, 1e-8)] {
            let run = manifest_fixtures::sample_training_with(
                "/model",
                json!({"architecture": architecture}),
            );
            let optimizer = config(&run, 0).optimizer;
            assert_eq!(
                (optimizer.beta1, optimizer.beta2),
                (0.9, beta2),
                "{architecture}"
            );

            assert_eq!(optimizer.epsilon, epsilon, "{architecture}");
        }
    }

    #[test]
    fn trainer_configurations_survive_serialization() {
        let written = config(&manifest_fixtures::sample_training(), 1);
        let read: TrainConfig =
            serde_json::from_value(json!(TrainerConfig::Train(Box::new(written.clone())))).unwrap();
        assert_eq!(read, written);
    }
}
