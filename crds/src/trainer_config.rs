//! What a trainer reads from its one file: complete, resolved, unknown keys refused. Nothing of
//! Kubernetes.

mod evaluate;

use serde::{Deserialize, Serialize};

use crate::{
    model::ModelConfig,
    names,
    stage::{Accelerator, Augmentation, DuplicatePolicy, FrozenTower, MicroBatch, Precision},
};
pub use evaluate::{
    CalibrationConfig, EvaluateConfig, FeatureFormat, RetrievalConfig, TaskConfig, ZeroShotConfig,
};

/// Who is running: echoed in every report, so that an answer can be told from a stranger's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunIdentity {
    /// Name of the run.
    pub name: String,
    /// UID of the run's object; empty by hand.
    #[serde(default)]
    pub uid: String,
    /// Name of the stage; `evaluate` for an evaluation.
    pub stage: String,
    /// The attempt at this stage, from 1.
    #[serde(default = "one")]
    pub attempt: i32,
}

fn one() -> i32 {
    1
}

/// A file that must have a certain content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinnedFile {
    /// Where it is.
    pub uri: String,
    /// Its sha256 in lower-case hexadecimal digits.
    pub sha256: String,
}

/// Where weights come from before the first step. Each may be a file, a folder, a checkpoint, the
/// prefix of a stage that ended, or a repository of the Hugging Face hub; what is not named is
/// initialised at random.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightSources {
    /// The whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The image tower and the logit scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The text tower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// How long a stage trains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrainingLength {
    /// Whole passes over the pairs; a pass is `pairs / global batch` steps, rounded down.
    Epochs(i64),
    /// Optimizer steps.
    Steps(i64),
}

/// Optimizer and schedule: AdamW, linear warm-up, cosine to zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Learning rate at the end of the warm-up.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: i64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Longest gradient; a longer one is scaled to it. No limit if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_gradient_norm: Option<f64>,
    /// Share of the old in the running average of the weights; no average if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_decay: Option<f64>,
}

/// A teacher of the image tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DistillationConfig {
    /// Where its weights are, in any place and layout that weights may come from.
    pub teacher: String,
    /// What 1 − cosine is multiplied with before it is added to the loss.
    pub weight: f64,
}

/// Recall on held-out pairs while training; the best checkpoint by it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValidationConfig {
    /// The data set.
    pub dataset: String,
    /// Steps between two validations; the last step always has one.
    pub every_steps: i64,
}

/// When the state is saved and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints; the last step always makes one.
    pub every_steps: i64,
    /// Newest checkpoints kept; the best is kept beside them.
    pub keep: i32,
}

/// The workers that share a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DistributedConfig {
    /// Workers: processes, pods in a cluster.
    pub replicas: i32,
    /// Devices of each; without an accelerator, as many threads that each work as a rank.
    pub devices: i32,
    /// What they compute on.
    pub accelerator: Accelerator,
    /// In which number format.
    pub precision: Precision,
    /// Where worker 0 awaits the others, as `host:port`: the others dial it, worker 0 listens on the
    /// port. Needed by more than one worker; each finds its number in
    /// [`ENV_WORKER`](crate::names::ENV_WORKER).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
}

impl DistributedConfig {
    /// What of it can never work.
    pub fn validation_error(&self) -> Option<String> {
        let Self {
            replicas, devices, ..
        } = self;

        if *replicas < 1 || *devices < 1 {
            return Some(format!(
                "world has {replicas} workers of {devices} devices; there must be at least one of each."
            ));
        }

        let coordinator = self.coordinator.as_deref().unwrap_or_default();
        let reachable =
            |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
        let found = *replicas == 1 || coordinator.rsplit_once(':').is_some_and(reachable);

        (!found).then(|| {
            format!(
                "world has {replicas} workers and coordinator is {coordinator:?}; it must be host:port, where \
                 worker 0 awaits the others."
            )
        })
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

/// One stage of training: the whole of `cnclip train --config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainConfig {
    /// Who is running.
    pub run: RunIdentity,
    /// The towers.
    pub model: ModelConfig,
    /// Longest text in tokens, [CLS] and [SEP] included; longer ones are cut.
    pub context_length: i32,
    /// The vocabulary; the image's own where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<PinnedFile>,
    /// Where weights come from.
    #[serde(default)]
    pub initial_weights: WeightSources,
    /// The pairs.
    pub dataset: String,
    /// What is left untouched.
    #[serde(default)]
    pub freeze: FrozenTower,
    /// How long.
    pub length: TrainingLength,
    /// Pairs in one step, over all workers.
    pub global_batch_size: i32,
    /// Pairs that a device computes at once; its whole share of the global batch if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<MicroBatch>,
    /// Whether what was chosen for `Auto` is halved: an earlier attempt ran out of memory with it.
    #[serde(default)]
    pub halve_micro_batch: bool,
    /// Whether the towers compute again what their gradient needs, to keep less. If not given, only
    /// where the micro batch is chosen and memory is short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_checkpointing: Option<bool>,
    /// Optimizer and schedule.
    pub optimizer: OptimizerConfig,
    /// Steps without a finite loss and gradient that are skipped before the stage fails.
    #[serde(default = "max_skipped_steps")]
    pub max_skipped_steps: i64,
    /// What pairs of one batch are to each other that have the same picture or the same caption.
    #[serde(default)]
    pub duplicates: DuplicatePolicy,
    /// A teacher of the image tower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationConfig>,
    /// What happens to pictures.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// Whether batch normalisation takes the statistics of the batches of all devices together, not
    /// those of each; nothing to an image tower that has none.
    #[serde(default)]
    pub synchronize_batch_norm: bool,
    /// Patches of each picture that are left out while training, in percent.
    #[serde(default)]
    pub masked_patches_percent: i32,
    /// Recall while training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationConfig>,
    /// When the state is saved.
    pub checkpoint: CheckpointConfig,
    /// The prefix of the run's artifacts.
    pub artifacts: String,
    /// Seed of initial weights, order, augmentation and dropout.
    #[serde(default)]
    pub seed: u64,
    /// Samples that may be skipped before the run fails, in percent.
    #[serde(default = "max_skipped_percent")]
    pub max_skipped_percent: f64,
    /// The workers.
    #[serde(default)]
    pub world: DistributedConfig,
    /// Steps between two reports.
    #[serde(default = "report_every_steps")]
    pub report_every_steps: i64,
    /// Where `/progress`, `/metrics` and `/healthz` answer; nowhere if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
}

fn max_skipped_steps() -> i64 {
    10
}
fn max_skipped_percent() -> f64 {
    1.0
}
fn report_every_steps() -> i64 {
    10
}

/// The address on which a trainer in a pod answers.
pub fn pod_listen_address() -> String {
    format!("0.0.0.0:{}", names::HTTP_PORT)
}
