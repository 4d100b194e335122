//! Configuration file of a trainer: fully resolved, unknown keys rejected, independent of Kubernetes.

mod evaluate;
mod optimizer;
mod recipe;
mod validation;

use serde::{Deserialize, Serialize};

use crate::{
    defaults,
    model::ModelConfig,
    names,
    stage::{Accelerator, Augmentation, DuplicatePolicy, FrozenTower, MicroBatch, Precision},
};
pub use evaluate::{EvaluateConfig, FeatureFormat};
pub use optimizer::OptimizerConfig;
pub use recipe::{Recipe, RecipeDifference};

/// Identity of the running attempt. Echoed in every progress report, so that the operator can ignore reports
/// of other attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunIdentity {
    /// Name of the run.
    pub name: String,
    /// UID of the run's object; empty outside Kubernetes.
    #[serde(default)]
    pub uid: String,
    /// Name of the stage; `evaluate` for an evaluation.
    pub stage: String,
    /// Attempt at this stage, from 1.
    #[serde(default = "defaults::first_attempt")]
    pub attempt: i32,
}

/// A file with a fixed SHA-256 digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinnedFile {
    /// URI of the file.
    pub uri: String,
    /// SHA-256 digest in lower-case hexadecimal digits.
    pub sha256: String,
}

/// Sources of pretrained weights: each is the URI of a file, a directory, a checkpoint, the prefix of a
/// finished stage, or a Hugging Face repository. Towers without a source are initialized randomly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightSources {
    /// Weights of the whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Weights of the image tower and the logit scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Weights of the text tower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Length of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrainingLength {
    /// Epochs; an epoch is `samples / global batch size` steps, rounded down.
    Epochs(i64),
    /// Optimizer steps.
    Steps(i64),
}

/// Knowledge distillation of the image tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DistillationConfig {
    /// Weights of the teacher: any URI and layout supported for initial weights.
    pub teacher: String,
    /// Weight of the distillation loss (1 − cosine similarity).
    pub weight: f64,
}

/// Periodic validation by retrieval recall; the checkpoint with the best recall is retained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValidationConfig {
    /// URI prefix of the validation data set.
    pub dataset: String,
    /// Validation interval in steps; the last step is always validated.
    pub every_steps: i64,
}

/// Checkpoint interval and retention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Checkpoint interval in steps; the last step is always checkpointed.
    pub every_steps: i64,
    /// Checkpoint interval in seconds: a checkpoint is written when either interval has passed, unless one is being
    /// written.
    #[serde(default = "crate::defaults::checkpoint_every_seconds")]
    pub every_seconds: i64,
    /// Number of most recent checkpoints to retain; the best checkpoint is retained in addition.
    pub keep: i32,
}

/// Distributed training: workers, devices and numerical precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DistributedConfig {
    /// Number of worker processes (pods).
    pub replicas: i32,
    /// Devices per worker; without an accelerator, the number of ranks, each a thread.
    pub devices: i32,
    /// Accelerator type.
    pub accelerator: Accelerator,
    /// Floating-point format of the computation.
    pub precision: Precision,
    /// Rendezvous address as `host:port`: worker 0 listens on the port, the others connect to it. Required
    /// for more than one worker; each reads its index from
    /// [`ENV_WORKER_INDEX`](crate::names::ENV_WORKER_INDEX).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
}

impl DistributedConfig {
    /// Number of ranks: one per device of every worker.
    ///
    /// # Examples
    /// ```
    /// use cnclip_crds::trainer_config::DistributedConfig;
    ///
    /// let world = DistributedConfig { replicas: 2, devices: 8, ..DistributedConfig::default() };
    /// assert_eq!(world.rank_count(), 16);
    /// ```
    pub fn rank_count(&self) -> i64 {
        i64::from(self.replicas) * i64::from(self.devices)
    }

    /// The first violated constraint, if any.
    pub fn validation_error(&self) -> Option<String> {
        self.problems().first().map(ToString::to_string)
    }
}

impl Default for DistributedConfig {
    fn default() -> Self {
        Self {
            replicas: 1,
            devices: 1,
            accelerator: Accelerator::None,
            precision: Precision::Fp32,
            coordinator: None,
        }
    }
}

/// One training stage: the configuration file of `cnclip train --config`.
///
/// A new field must be classified in [`TrainConfig::recipe`]: does it determine the numerical result? Its rules
/// belong into [`TrainConfig::problems`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainConfig {
    /// Identity of the running attempt.
    pub run: RunIdentity,
    /// Configuration of the towers.
    pub model: ModelConfig,
    /// Maximum text length in tokens, including `[CLS]` and `[SEP]`; longer texts are truncated.
    pub context_length: i32,
    /// Vocabulary file of the tokenizer. Unset: that of the trainer image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<PinnedFile>,
    /// Pretrained weights to initialize from.
    #[serde(default)]
    pub initial_weights: WeightSources,
    /// URI prefix of the training data set.
    pub dataset: String,
    /// Frozen part of the model.
    #[serde(default)]
    pub freeze: FrozenTower,
    /// Length of the stage.
    pub length: TrainingLength,
    /// Global batch size: samples per optimizer step across all workers.
    pub global_batch_size: i32,
    /// Micro-batch size per device. Unset: the device's whole share of the global batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<MicroBatch>,
    /// Whether the automatic micro-batch size is halved, after an attempt that ran out of memory.
    #[serde(default)]
    pub halve_micro_batch: bool,
    /// Gradient checkpointing. Unset: only if the micro-batch size is automatic and memory is short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_checkpointing: Option<bool>,
    /// Optimizer and learning rate schedule.
    pub optimizer: OptimizerConfig,
    /// Maximum number of steps with a non-finite loss or gradient that are skipped before the stage fails.
    #[serde(default = "defaults::max_skipped_steps")]
    pub max_skipped_steps: i64,
    /// Treatment of samples in a batch that have the same image or the same text.
    #[serde(default)]
    pub duplicates: DuplicatePolicy,
    /// Knowledge distillation of the image tower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationConfig>,
    /// Training-time image augmentation.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// Synchronized batch normalization: statistics of the global batch instead of each device's batch. No
    /// effect on image towers without batch normalization.
    #[serde(default)]
    pub synchronize_batch_norm: bool,
    /// Percentage of image patches dropped in training.
    #[serde(default)]
    pub masked_patches_percent: i32,
    /// Periodic validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationConfig>,
    /// Checkpoint interval and retention.
    pub checkpoint: CheckpointConfig,
    /// URI prefix of the run's artifacts.
    pub artifacts: String,
    /// Random seed of weight initialization, sample order, augmentation and dropout.
    #[serde(default)]
    pub seed: u64,
    /// Maximum percentage of unusable samples that are skipped before the run fails.
    #[serde(default = "defaults::max_skipped_percent_f64")]
    pub max_skipped_percent: f64,
    /// Distributed training.
    #[serde(default)]
    pub world: DistributedConfig,
    /// Reporting interval in steps.
    #[serde(default = "defaults::report_every_steps")]
    pub report_every_steps: i64,
    /// Listen address of `/progress`, `/metrics` and `/healthz`. Unset: not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
}

/// Listen address of a trainer in a pod.
pub fn pod_listen_address() -> String {
    format!("0.0.0.0:{}", names::HTTP_PORT)
}
