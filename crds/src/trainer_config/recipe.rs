//! The recipe of a stage: the part of its configuration that determines the numerical result.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::{
    DistillationConfig, DistributedConfig, OptimizerConfig, TrainConfig, TrainingLength,
    ValidationConfig,
};
use crate::{
    model::ModelConfig,
    stage::{Augmentation, DuplicatePolicy, FrozenTower, MicroBatch, Precision},
};

/// The part of a configuration that determines the numerical result of a stage. A checkpoint may be resumed
/// only with the recipe that it was written with.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recipe {
    model: ModelConfig,
    context_length: i32,
    /// SHA-256 digest of the vocabulary: its location does not matter.
    vocabulary: Option<String>,
    freeze: FrozenTower,
    length: TrainingLength,
    global_batch_size: i32,
    precision: Precision,
    optimizer: OptimizerConfig,
    duplicates: DuplicatePolicy,
    distillation: Option<DistillationConfig>,
    augmentation: Augmentation,
    synchronize_batch_norm: bool,
    masked_patches_percent: i32,
    validation_dataset: Option<String>,
    seed: u64,
    #[serde(flatten)]
    batch_norm: Option<BatchNormGroups>,
}

/// The samples that batch normalization takes its statistics of.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchNormGroups {
    micro_batch_size: i64,
    ranks: i64,
}

/// A field in which two recipes differ, with both values as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeDifference {
    /// Path of the field, such as `optimizer.learningRate`.
    pub field: String,
    /// Value in the first recipe; `unset` if it has none.
    pub before: String,
    /// Value in the second recipe; `unset` if it has none.
    pub after: String,
}

impl TrainConfig {
    /// The part of the configuration that determines the numerical result of the stage.
    ///
    /// # Guarantees
    /// Every field is classified: the configuration is destructured exhaustively, so that a new field does not
    /// compile until it is added to the recipe or listed here as not part of it.
    pub fn recipe(&self) -> Recipe {
        let Self {
            model,
            context_length,
            vocabulary,
            freeze,
            length,
            global_batch_size,
            micro_batch_size,
            optimizer,
            duplicates,
            distillation,
            augmentation,
            synchronize_batch_norm,
            masked_patches_percent,
            validation,
            seed,
            world,
            // Identity of the attempt and location of the artifacts.
            run: _,
            artifacts: _,
            // Only the start of a stage reads them; a checkpoint supersedes them.
            initial_weights: _,
            // Compared by the digest in the training state, because a data set may be moved.
            dataset: _,
            // They change memory and time of a step, not its gradient. ResNets refuse an automatic
            // micro-batch size, the only one that is ever halved.
            halve_micro_batch: _,
            gradient_checkpointing: _,
            // They decide when a stage fails, not what it computes.
            max_skipped_steps: _,
            max_skipped_percent: _,
            // How often the state is saved and reported.
            checkpoint: _,
            report_every_steps: _,
            listen: _,
        } = self;

        let DistributedConfig {
            precision,
            // Part of the recipe through the groups of batch normalization only: every other computation is
            // independent of how the global batch is partitioned.
            replicas: _,
            devices: _,
            // Rounding differs between devices, but not the recipe: a run may move to other hardware.
            accelerator: _,
            coordinator: _,
        } = world;

        let validation_dataset = validation.as_ref().map(|validation| {
            let ValidationConfig {
                dataset,
                // The interval selects the steps that are validated, but recalls stay comparable.
                every_steps: _,
            } = validation;

            // The same location, however it is written, must not prevent a resume.
            dataset.trim_end_matches('/').to_owned()
        });

        Recipe {
            model: model.clone(),
            context_length: *context_length,
            vocabulary: vocabulary.as_ref().map(|file| file.sha256.clone()),
            freeze: *freeze,
            length: *length,
            global_batch_size: *global_batch_size,
            precision: *precision,
            optimizer: optimizer.clone(),
            duplicates: *duplicates,
            distillation: distillation.clone(),
            augmentation: *augmentation,
            synchronize_batch_norm: *synchronize_batch_norm,
            masked_patches_percent: *masked_patches_percent,
            validation_dataset,
            seed: *seed,
            batch_norm: self.batch_norm_groups(micro_batch_size.and_then(MicroBatch::fixed_size)),
        }
    }

    /// The groups of samples that share batch normalization statistics; `None` if the partition of the global
    /// batch has no influence on them.
    fn batch_norm_groups(&self, micro_batch_size: Option<i32>) -> Option<BatchNormGroups> {
        // Only ResNets have batch normalization; layer normalization is computed per sample.
        self.model.image.resnet.as_ref()?;
        let ranks = self.world.rank_count();
        let share = i64::from(self.global_batch_size) / ranks.max(1);
        let micro_batch_size = micro_batch_size.map_or(share, i64::from);
        // Synchronized statistics of undivided shares are those of the whole global batch, on any number
        // of ranks.
        let whole_batch = self.synchronize_batch_norm && micro_batch_size == share;
        (!whole_batch).then_some(BatchNormGroups {
            micro_batch_size,
            ranks,
        })
    }
}

impl Recipe {
    /// The fields in which two recipes differ, sorted by path.
    ///
    /// # Examples
    /// ```
    /// use cnclip_crds::trainer_config::TrainConfig;
    ///
    /// let config: TrainConfig = serde_json::from_value(serde_json::json!({
    ///     "run": {"name": "muge", "stage": "tune"},
    ///     "model": cnclip_crds::model::Architecture::VitB16.published_model(),
    ///     "contextLength": 52,
    ///     "dataset": "s3://data/muge",
    ///     "length": {"epochs": 3},
    ///     "globalBatchSize": 128,
    ///     "optimizer": {"learningRate": 1e-5, "warmupSteps": 100, "weightDecay": 1e-3,
    ///                   "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-6},
    ///     "checkpoint": {"everySteps": 1000, "keep": 3},
    ///     "artifacts": "s3://runs/muge",
    /// }))?;
    ///
    /// let mut changed = config.clone();
    /// changed.report_every_steps = 100;
    /// assert!(config.recipe().differences(&changed.recipe()).is_empty());
    ///
    /// changed.optimizer.max_gradient_norm = Some(1.0);
    /// let differences = config.recipe().differences(&changed.recipe());
    /// assert_eq!(differences[0].to_string(), "optimizer.maxGradientNorm (unset → 1.0)");
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn differences(&self, other: &Self) -> Vec<RecipeDifference> {
        let before = self.leaf_values();
        let after = other.leaf_values();
        let fields: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let value_or_unset = |values: &BTreeMap<String, String>, field: &str| {
            values.get(field).map_or("unset", String::as_str).to_owned()
        };

        fields
            .into_iter()
            .filter(|field| before.get(*field) != after.get(*field))
            .map(|field| RecipeDifference {
                field: field.clone(),
                before: value_or_unset(&before, field),
                after: value_or_unset(&after, field),
            })
            .collect()
    }

    /// Every scalar and list of the recipe by its path.
    fn leaf_values(&self) -> BTreeMap<String, String> {
        let mut leaves = BTreeMap::new();
        let value = serde_json::to_value(self).unwrap_or_default();
        collect_leaves(&value, String::new(), &mut leaves);
        leaves
    }
}

fn collect_leaves(value: &Value, path: String, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };

                collect_leaves(field, path, leaves);
            }
        }
        // Compared as JSON text: shortest round-trip output makes equal floats equal text.
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            leaves.insert(path, value.to_string());
        }
    }
}

impl std::fmt::Display for RecipeDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} → {})", self.field, self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Architecture;

    fn config(architecture: Architecture) -> TrainConfig {
        serde_json::from_value(json!({
            "run": {"name": "muge", "stage": "tune"},
            "model": architecture.published_model(),
            "contextLength": 52,
            "vocabulary": {"uri": "s3://vocab/a.txt", "sha256": "aa"},
            "dataset": "s3://data/muge",
            "length": {"epochs": 3},
            "globalBatchSize": 128,
            "optimizer": {"learningRate": 1e-5, "warmupSteps": 100, "weightDecay": 1e-3,
                          "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-6},
            "validation": {"dataset": "s3://data/valid", "everySteps": 100},
            "checkpoint": {"everySteps": 1000, "keep": 3},
            "artifacts": "s3://runs/muge",
            "world": {"replicas": 2, "devices": 4, "accelerator": "Nvidia", "precision": "Fp32",
                      "coordinator": "muge-tune-1-0:8081"},
        }))
        .unwrap()
    }

    fn differing_fields(before: &TrainConfig, after: &TrainConfig) -> Vec<String> {
        let differences = before.recipe().differences(&after.recipe());
        differences.into_iter().map(|found| found.field).collect()
    }

    type Change = fn(&mut TrainConfig);

    #[test]
    fn fields_that_determine_the_result_are_part_of_the_recipe() {
        let rows: [(Change, &str); 9] = [
            (|c| c.world.precision = Precision::Bf16, "precision"),
            (
                |c| c.vocabulary.as_mut().unwrap().sha256 = "bb".into(),
                "vocabulary",
            ),
            (|c| c.vocabulary = None, "vocabulary"),
            (
                |c| c.validation.as_mut().unwrap().dataset = "s3://other".into(),
                "validationDataset",
            ),
            (
                |c| c.optimizer.learning_rate = 2e-5,
                "optimizer.learningRate",
            ),
            (|c| c.length = TrainingLength::Epochs(4), "length.epochs"),
            (|c| c.seed = 1, "seed"),
            (|c| c.model.text.layers = 11, "model.text.layers"),
            (|c| c.augmentation = Augmentation::None, "augmentation"),
        ];

        let before = config(Architecture::VitB16);
        for (change, expected) in rows {
            let mut after = before.clone();
            change(&mut after);
            assert_eq!(differing_fields(&before, &after), [expected]);
        }
    }

    #[test]
    fn fields_that_do_not_determine_the_result_are_not() {
        let changes: [Change; 9] = [
            |c| c.report_every_steps = 100,
            |c| c.checkpoint.every_steps = 1,
            |c| c.run.attempt = 2,
            |c| c.vocabulary.as_mut().unwrap().uri = "s3://vocab/b.txt".into(),
            |c| c.validation.as_mut().unwrap().dataset += "/",
            |c| c.validation.as_mut().unwrap().every_steps = 7,
            |c| c.micro_batch_size = Some(MicroBatch::AUTO),
            |c| c.world.replicas = 1,
            |c| c.gradient_checkpointing = Some(true),
        ];

        let before = config(Architecture::VitB16);
        for change in changes {
            let mut after = before.clone();
            change(&mut after);
            assert_eq!(differing_fields(&before, &after), [""; 0]);
        }
    }

    #[test]
    fn batch_normalization_makes_the_partition_of_the_batch_part_of_the_recipe() {
        let before = config(Architecture::Rn50);
        let mut smaller = before.clone();
        smaller.micro_batch_size = Some(MicroBatch::Pairs(8));
        assert_eq!(differing_fields(&before, &smaller), ["microBatchSize"]);

        let mut fewer_ranks = before.clone();
        fewer_ranks.world.replicas = 1;
        fewer_ranks.micro_batch_size = Some(MicroBatch::Pairs(16));
        assert_eq!(differing_fields(&before, &fewer_ranks), ["ranks"]);

        let synchronized = |change: Change| {
            let mut config = config(Architecture::Rn50);
            config.synchronize_batch_norm = true;
            change(&mut config);
            config
        };

        let whole = synchronized(|_| ());
        let fewer_ranks = synchronized(|c| c.world.replicas = 1);
        assert_eq!(differing_fields(&whole, &fewer_ranks), [""; 0]);

        let micro = synchronized(|c| c.micro_batch_size = Some(MicroBatch::Pairs(8)));
        assert_eq!(
            differing_fields(&whole, &micro),
            ["microBatchSize", "ranks"]
        );
    }

    #[test]
    fn a_difference_names_both_values() {
        let before = config(Architecture::VitB16);
        let mut after = before.clone();
        after.world.precision = Precision::Bf16;
        after.validation = None;
        let found = before.recipe().differences(&after.recipe());
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "precision (\"Fp32\" → \"Bf16\")",
                "validationDataset (\"s3://data/valid\" → unset)"
            ]
        );
    }
}
