//! A `CnClipTraining` as work: every default filled in, every decimal a number. Pure.

use cnclip_crds::{
    artifacts,
    model::ModelConfig,
    run_config::{
        CheckpointConfig, DistillationConfig, Identity, Length, OptimizerConfig, PinnedFile,
        TrainConfig, ValidationConfig, WeightSources, WorldConfig, pod_listen,
    },
    shared::{VocabularyFile, Workers},
    training::{self, CnClipTraining, CnClipTrainingSpec, CnClipTrainingStatus, InitialWeights},
};
use kube::ResourceExt;

use super::{Defaults, Run};
use crate::{
    ledger::Ledger,
    observed::Observed,
    plan::admission,
    status::summary,
    work::{Cause, Config, Stage, Work},
};

impl Run for CnClipTraining {
    const KIND: &'static str = "training";

    fn work(&self, _: &Observed, defaults: &Defaults) -> Result<Work, Cause> {
        let spec = &self.spec;
        admission::training(spec)?;
        let model = admission::towers(&spec.model)?;
        let stages = (0..spec.stages.len())
            .map(|index| stage(self, index, &model))
            .collect();

        Ok(Work {
            stages,
            workers: spec.workers.clone(),
            image: defaults.image_of(&spec.workers),
            secret: spec
                .artifacts
                .credentials
                .as_ref()
                .map(|found| found.secret_name.clone()),
            queue: spec.queue_name.clone(),
            artifacts: spec.artifacts.uri.clone(),
            retries: spec.retries.clone(),
            start_deadline_seconds: spec.start_deadline_seconds,
            deadline_seconds: spec.deadline_seconds,
            ttl_seconds: spec.ttl_seconds_after_finished,
            suspend: spec.suspend,
            series: false,
            goes_on: None,
            waits_for: None,
            gate: None,
        })
    }

    fn ledger(&self) -> Ledger {
        let status = self.status.clone().unwrap_or_default();
        Ledger {
            stages: status.stages,
            restarts: status.restarts,
            last_failure: status.last_failure,
            checkpoints: status.checkpoints,
            report: status.report,
            started_at: status.started_at,
            finished_at: status.finished_at,
            observed_generation: status.observed_generation,
            conditions: status.conditions,
            ..Ledger::default()
        }
    }

    fn status(&self, ledger: &Ledger) -> serde_json::Value {
        let status = CnClipTrainingStatus {
            observed_generation: ledger.observed_generation,
            conditions: ledger.conditions.clone(),
            stages: ledger.stages.clone(),
            restarts: ledger.restarts.clone(),
            last_failure: ledger.last_failure.clone(),
            checkpoints: ledger.checkpoints.clone(),
            report: ledger.report.clone(),
            started_at: ledger.started_at.clone(),
            finished_at: ledger.finished_at.clone(),
            summary: Some(summary::of_training(ledger)),
        };

        serde_json::to_value(status).unwrap_or_default()
    }

    fn present_status(&self) -> serde_json::Value {
        serde_json::to_value(&self.status).unwrap_or_default()
    }
}

fn stage(run: &CnClipTraining, index: usize, model: &ModelConfig) -> Stage {
    let spec = &run.spec;
    let stage = &spec.stages[index];
    let config = TrainConfig {
        run: Identity {
            name: run.name_any(),
            uid: run.uid().unwrap_or_default(),
            stage: stage.name.clone(),
            attempt: 1,
        },
        optimizer: optimizer(stage, model),
        model: model.clone(),
        context_length: spec.model.context_length,
        vocabulary: spec.model.vocabulary.as_ref().map(pinned),
        initial_weights: weights(spec, index),
        dataset: uri(spec, &stage.dataset),
        freeze: stage.freeze,
        length: length(stage),
        global_batch_size: stage.global_batch_size,
        micro_batch_size: stage.micro_batch_size,
        halve_micro_batch: false,
        gradient_checkpointing: stage.gradient_checkpointing,
        max_skipped_steps: stage.max_skipped_steps,
        duplicates: stage.duplicates,
        distillation: stage.distillation.as_ref().map(distillation),
        augmentation: stage.augmentation,
        synchronize_batch_norm: stage.synchronize_batch_norm,
        masked_patches_percent: stage.masked_patches_percent,
        validation: stage
            .validation
            .as_ref()
            .map(|validation| ValidationConfig {
                dataset: uri(spec, &validation.dataset),
                every_steps: validation.every_steps,
            }),
        checkpoint: CheckpointConfig {
            every_steps: spec.checkpoint.every_steps,
            keep: spec.checkpoint.keep,
        },
        artifacts: spec.artifacts.uri.clone(),
        seed: spec.seed.unsigned_abs(),
        max_skipped_percent: spec.max_skipped_percent.into(),
        world: world(&spec.workers),
        report_every_steps: spec.report_every_steps,
        listen: Some(pod_listen()),
    };

    Stage {
        name: stage.name.clone(),
        config: Config::Train(Box::new(config)),
        scores: None,
    }
}

/// # Source
/// The reference's defaults: `--beta1`, `--beta2`, `--eps` by the kind of image tower.
fn optimizer(stage: &training::Stage, model: &ModelConfig) -> OptimizerConfig {
    let (beta2, epsilon) = if model.image.vit.is_some() {
        (0.98, 1e-6)
    } else {
        (0.999, 1e-8)
    };

    OptimizerConfig {
        learning_rate: admission::number(&stage.learning_rate).unwrap_or_default(),
        warmup_steps: stage.warmup_steps,
        weight_decay: admission::number(&stage.weight_decay).unwrap_or_default(),
        beta1: 0.9,
        beta2,
        epsilon,
        max_gradient_norm: stage
            .max_gradient_norm
            .as_deref()
            .and_then(admission::number),
        average_decay: stage.average_decay.as_deref().and_then(admission::number),
    }
}

fn distillation(told: &training::Distillation) -> DistillationConfig {
    let weight = admission::number(&told.weight).unwrap_or_default();
    DistillationConfig {
        teacher: told.teacher.clone(),
        weight,
    }
}

/// A stage begins with what the stage before it ended with.
fn weights(spec: &CnClipTrainingSpec, index: usize) -> WeightSources {
    if let Some(previous) = index
        .checked_sub(1)
        .and_then(|previous| spec.stages.get(previous))
    {
        let model = artifacts::stage(&spec.artifacts.uri, &previous.name);
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

fn length(stage: &training::Stage) -> Length {
    stage
        .steps
        .map_or_else(|| Length::Epochs(stage.epochs.unwrap_or(1)), Length::Steps)
}

fn uri(spec: &CnClipTrainingSpec, name: &str) -> String {
    let dataset = spec.datasets.iter().find(|dataset| dataset.name == name);
    dataset
        .map(|dataset| dataset.uri.clone())
        .unwrap_or_default()
}

/// Workers as a trainer is told of them.
pub(super) fn world(workers: &Workers) -> WorldConfig {
    WorldConfig {
        replicas: workers.replicas,
        devices: workers.devices,
        accelerator: workers.accelerator,
        precision: workers.precision,
        coordinator: None,
    }
}

/// A vocabulary as a trainer is told of it.
pub(super) fn pinned(file: &VocabularyFile) -> PinnedFile {
    PinnedFile {
        uri: file.uri.clone(),
        sha256: file.sha256.clone(),
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::stage::{Duplicates, MicroBatch};
    use serde_json::json;

    use super::*;
    use crate::samples;

    fn config(run: &CnClipTraining, index: usize) -> TrainConfig {
        let work = run
            .work(&Observed::default(), &samples::defaults())
            .unwrap();

        match &work.stages[index].config {
            Config::Train(config) => (**config).clone(),
            Config::Evaluate(_) => panic!("a training trains"),
        }
    }

    #[test]
    fn a_stage_begins_with_what_the_stage_before_it_ended_with() {
        let run = samples::training();
        let first = config(&run, 0).initial_weights;
        assert_eq!(first.image.as_deref(), Some("s3://models/clip.pt"));
        assert_eq!(first.model, None);
        let second = config(&run, 1).initial_weights;

        assert_eq!(second.model.as_deref(), Some("s3://runs/muge/align"));
        assert_eq!(second.image, None);
    }

    #[test]
    fn text_becomes_numbers_and_names_become_addresses() {
        let tune = config(&samples::training(), 1);
        assert_eq!(tune.optimizer.learning_rate, 2e-5);
        assert_eq!(tune.optimizer.weight_decay, 1e-3);
        assert_eq!(tune.dataset, "s3://data/pairs/");
        assert_eq!(tune.validation.unwrap().dataset, "s3://data/valid/");
        assert_eq!(tune.length, Length::Epochs(2));
    }

    #[test]
    fn the_recipe_of_a_stage_is_that_of_the_reference_unless_it_says_otherwise() {
        let plain = config(&samples::training(), 0);
        assert_eq!(
            (
                plain.optimizer.max_gradient_norm,
                plain.optimizer.average_decay
            ),
            (None, None)
        );

        assert_eq!(
            (plain.duplicates, plain.distillation),
            (Duplicates::Negatives, None)
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

        let found = config(&samples::training_with("/stages/1", stage), 1);
        assert_eq!(found.optimizer.max_gradient_norm, Some(1.0));
        assert_eq!(found.optimizer.average_decay, Some(0.999));
        assert_eq!(found.duplicates, Duplicates::Positives);
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
    fn moments_follow_the_kind_of_image_tower() {
        for (architecture, beta2, epsilon) in [("ViT-B-16", 0.98, 1e-6), ("RN50", 0.999, 1e-8)] {
            let run = samples::training_with("/model", json!({"architecture": architecture}));
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
    fn what_a_trainer_is_told_is_what_it_reads() {
        let told = config(&samples::training(), 1);
        let read: TrainConfig =
            serde_json::from_value(json!(Config::Train(Box::new(told.clone())))).unwrap();
        assert_eq!(read, told);
    }
}
