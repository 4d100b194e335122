//! `CnClipTraining`: spec and status of a training run.
//!
//! The `///` comments of fields are for users: `kubectl explain` prints them.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{ArtifactLocation, RetryLimits, RunPolicy, VocabularyFile, WorkersSpec},
    defaults,
    model::{Architecture, ModelConfig},
};

mod stage;
mod status;

pub use stage::{DecimalField, DistillationSpec, StageSpec, StageValidation};
pub use status::{
    CheckpointStatus, CnClipTrainingStatus, StageState, StageStatus, TrainingSummary,
    ValidationStatus,
};

/// Desired state of a training run.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "cnclip.dev",
    version = "v1alpha1",
    kind = "CnClipTraining",
    doc = "A Chinese-CLIP training run: a model, its data sets, an ordered list of stages, and the location of its artifacts.",
    namespaced,
    status = "CnClipTrainingStatus",
    shortname = "cct",
    category = "cnclip",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$')").message("metadata.name must be at most 32 lower-case letters, digits and dashes and begin with a letter: it becomes part of the names of pods"),
    printcolumn(name = "Stage", type_ = "string", json_path = ".status.summary.stage"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.summary.step"),
    printcolumn(name = "Loss", type_ = "string", json_path = ".status.summary.loss"),
    printcolumn(name = "R@1", type_ = "string", json_path = ".status.summary.r1"),
    printcolumn(
        name = "Pairs/s",
        type_ = "string",
        json_path = ".status.summary.samplesPerSecond"
    ),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.summary.eta"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts.total"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.stages.all(s, self.datasets.exists(d, d.name == s.dataset))").message("each stage's dataset must be the name of one of spec.datasets"))]
#[x_kube(validation = Rule::new("self.stages.all(s, !has(s.validation) || self.datasets.exists(d, d.name == s.validation.dataset))").message("each stage's validation.dataset must be the name of one of spec.datasets"))]
// Repeated from the trainer's rules: at admission, `kubectl apply` itself reports the violation.
#[x_kube(validation = Rule::new("self.stages.all(s, s.globalBatchSize % (self.workers.replicas * self.workers.devices) == 0)").message("each stage's globalBatchSize must be a multiple of workers.replicas × workers.devices"))]
#[x_kube(validation = Rule::new("self.stages.all(s, !has(s.microBatchSize) || type(s.microBatchSize) == string || s.microBatchSize * self.workers.replicas * self.workers.devices <= s.globalBatchSize)").message("each stage's microBatchSize must be at most globalBatchSize / (workers.replicas × workers.devices)"))]
#[x_kube(validation = Rule::new("self.stages.all(s, !has(s.microBatchSize) || type(s.microBatchSize) == int) || !(self.model.architecture == 'RN50' || has(self.model.custom) && has(self.model.custom.image.resnet))").message("microBatchSize must not be Auto for a ResNet: its batch normalisation takes statistics of these pairs, so their number is part of the recipe"))]
pub struct CnClipTrainingSpec {
    /// Model to train.
    #[x_kube(validation = Rule::new("self == oldSelf").message("is immutable: another model is another run"))]
    pub model: ModelSpec,
    /// Data sets, referenced by name from the stages.
    // The maximum lengths also bound the estimated cost of the CEL rules, which the API server
    // limits.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub datasets: Vec<DatasetSpec>,
    /// Training stages, executed in this order. Each stage starts from the weights of the previous one.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self.map(s, s.name) == oldSelf.map(s, s.name)").message("names and order are immutable: other stages are another run"))]
    pub stages: Vec<StageSpec>,
    /// Worker pods: count, accelerator, resources.
    #[serde(default)]
    pub workers: WorkersSpec,
    /// Object store prefix for checkpoints, metrics and the report.
    #[x_kube(validation = Rule::new("self.uri == oldSelf.uri").message("uri is immutable: checkpoints already there would be lost from sight"))]
    pub artifacts: ArtifactLocation,
    /// Checkpoint interval and retention.
    #[serde(default)]
    pub checkpoint: CheckpointPolicy,
    /// Reporting interval of loss and throughput, in steps.
    #[serde(default = "defaults::report_every_steps")]
    #[schemars(range(min = 1, max = 1000000))]
    pub report_every_steps: i64,
    /// Maximum percentage of unusable samples that are skipped before the run fails.
    #[serde(default = "defaults::max_skipped_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub max_skipped_percent: i32,
    /// Retry limits per failure category.
    #[serde(default)]
    pub retries: RetryLimits,
    /// Maximum number of seconds that the pods of a stage may be pending (unschedulable, image pull) before
    /// the run fails.
    #[serde(default = "defaults::start_deadline_seconds")]
    #[schemars(range(min = 1, max = 604800))]
    pub start_deadline_seconds: i64,
    /// Maximum duration of the run in seconds, measured from the creation of its first pod. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub deadline_seconds: Option<i64>,
    /// Name of the Kueue LocalQueue that admits the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub queue_name: Option<String>,
    /// Suspends the run: its pods are terminated and its checkpoints are kept. Set to `false` to resume from
    /// the latest checkpoint.
    #[serde(default)]
    pub suspend: bool,
    /// Number of seconds after which the finished run is deleted. Unset: never deleted. Artifacts are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i64>,
    /// Random seed of weight initialization, sample order, augmentation and dropout.
    #[serde(default)]
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("is immutable: a resumed run would see other batches"))]
    pub seed: i64,
}

impl CnClipTrainingSpec {
    /// How the run is started, retried and ended.
    pub fn run_policy(&self) -> RunPolicy {
        RunPolicy {
            retries: self.retries.clone(),
            start_deadline_seconds: self.start_deadline_seconds,
            deadline_seconds: self.deadline_seconds,
            queue_name: self.queue_name.clone(),
            suspend: self.suspend,
            ttl_seconds_after_finished: self.ttl_seconds_after_finished,
        }
    }
}

/// Model architecture and initial weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.contextLength <= (has(self.custom) ? self.custom.text.positions : 512)").message("contextLength must be at most the positions of the text tower (512 in published models)"))]
#[x_kube(validation = Rule::new("(self.architecture == 'Custom') == has(self.custom)").message("custom must be given when architecture is Custom, and only then"))]
pub struct ModelSpec {
    /// Name of a published architecture, or `Custom`.
    pub architecture: Architecture,
    /// Tower configuration of a `Custom` architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("has(self.image.vit) != has(self.image.resnet)").message("image must have exactly one of vit and resnet"))]
    #[x_kube(validation = Rule::new("!has(self.image.vit) || self.image.resolution % self.image.vit.patchSize == 0").message("image.resolution must be a multiple of image.vit.patchSize"))]
    #[x_kube(validation = Rule::new("!has(self.image.vit) || self.image.vit.width % self.image.vit.headWidth == 0").message("image.vit.width must be a multiple of image.vit.headWidth"))]
    #[x_kube(validation = Rule::new("!has(self.image.resnet) || self.image.resolution % 32 == 0").message("image.resolution must be a multiple of 32 for a resnet"))]
    #[x_kube(validation = Rule::new("!has(self.image.resnet) || self.image.resnet.width % 2 == 0").message("image.resnet.width must be even"))]
    #[x_kube(validation = Rule::new("!has(self.image.resnet) || self.image.resnet.layers.all(n, n >= 1 && n <= 64)").message("image.resnet.layers must be four numbers of 1 to 64"))]
    #[x_kube(validation = Rule::new("self.text.width % self.text.heads == 0").message("text.width must be a multiple of text.heads"))]
    pub custom: Option<ModelConfig>,
    /// Pretrained weights to initialize from. Unset: random initialization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_weights: Option<InitialWeights>,
    /// Vocabulary file of the tokenizer. Defaults to the vocabulary of all published models, which the
    /// trainer image contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularyFile>,
    /// Maximum text length in tokens, including `[CLS]` and `[SEP]`. Longer texts are truncated.
    #[serde(default = "defaults::context_length")]
    #[schemars(range(min = 3, max = 8192))]
    pub context_length: i32,
}

/// Sources of pretrained weights. Each is the URI of a file, a directory, a checkpoint or the prefix of a
/// finished stage, or a Hugging Face repository as `hf://organisation/name[@revision][/file]`. The layout is
/// detected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.model) != (has(self.image) || has(self.text))").message("give either model, or image and text (or one of them)"))]
pub struct InitialWeights {
    /// Weights of the whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https|hf)://.+')").message("must be s3://…, gs://…, az://…, file://…, https://… or hf://…"))]
    #[schemars(length(max = 1024))]
    pub model: Option<String>,
    /// Weights of the image tower and the logit scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https|hf)://.+')").message("must be s3://…, gs://…, az://…, file://…, https://… or hf://…"))]
    #[schemars(length(max = 1024))]
    pub image: Option<String>,
    /// Weights of the text tower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https|hf)://.+')").message("must be s3://…, gs://…, az://…, file://…, https://… or hf://…"))]
    #[schemars(length(max = 1024))]
    pub text: Option<String>,
}

/// A data set of shards as written by `cnclip prepare`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetSpec {
    /// Name of the data set, unique in the run.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// URI prefix of the shards, such as `s3://data/zh-pairs/`.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub uri: String,
}

/// Checkpoint interval and retention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointPolicy {
    /// Checkpoint interval in steps. The last step of a stage is always checkpointed.
    #[serde(default = "defaults::checkpoint_every_steps")]
    #[schemars(range(min = 1))]
    pub every_steps: i64,
    /// Checkpoint interval in seconds: a checkpoint is written when either interval has passed, unless one is being
    /// written.
    #[serde(default = "defaults::checkpoint_every_seconds")]
    #[schemars(range(min = 1))]
    pub every_seconds: i64,
    /// Number of most recent checkpoints to retain per stage. The best checkpoint is retained in addition.
    #[serde(default = "defaults::kept_checkpoints")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep: i32,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self {
            every_steps: defaults::checkpoint_every_steps(),
            every_seconds: defaults::checkpoint_every_seconds(),
            keep: defaults::kept_checkpoints(),
        }
    }
}
