//! `CnClipEvaluation`: spec and status of an evaluation.

mod gate;
mod status;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{ArtifactLocation, RetryLimits, RunPolicy, VocabularyFile, WorkersSpec};
use crate::defaults;
use crate::tasks::{self, TaskSpec};
use crate::trainer_config::FeatureFormat;
pub use gate::{EvaluationTrigger, GateBaseline, GateSpec};
pub use status::{
    CnClipEvaluationStatus, DatasetProvenance, EvaluationProvenance, EvaluationSummary,
    ScoredCheckpoint,
};

/// Desired state of an evaluation.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "cnclip.dev",
    version = "v1alpha1",
    kind = "CnClipEvaluation",
    doc = "An evaluation of a Chinese-CLIP checkpoint on a list of tasks.",
    namespaced,
    status = "CnClipEvaluationStatus",
    shortname = "cce",
    category = "cnclip",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$')").message("metadata.name must be at most 32 lower-case letters, digits and dashes and begin with a letter: it becomes part of the names of pods"),
    validation = Rule::new("!has(self.spec.gate) || !has(self.spec.gate.notWorseThan) || self.spec.gate.notWorseThan.evaluationName != self.metadata.name").message("gate.notWorseThan must name another evaluation"),
    printcolumn(name = "Tasks", type_ = "string", json_path = ".status.summary.tasks"),
    printcolumn(name = "Metric", type_ = "string", json_path = ".status.summary.metric"),
    printcolumn(name = "Score", type_ = "string", json_path = ".status.summary.score"),
    printcolumn(name = "R@1", type_ = "string", json_path = ".status.summary.r1"),
    printcolumn(name = "R@5", type_ = "string", json_path = ".status.summary.r5", priority = 1),
    printcolumn(name = "R@10", type_ = "string", json_path = ".status.summary.r10", priority = 1),
    printcolumn(name = "MR", type_ = "string", json_path = ".status.summary.meanRecall"),
    printcolumn(name = "Gate", type_ = "string", json_path = ".status.summary.gate"),
    printcolumn(name = "Checkpoint", type_ = "string", json_path = ".status.checkpoint", priority = 1),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts.total"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.artifacts) || has(self.checkpoint.trainingName)").message("artifacts must be given when the checkpoint is a uri"))]
#[x_kube(validation = Rule::new("self.trigger == 'Once' || has(self.checkpoint.trainingName)").message("trigger EveryCheckpoint needs checkpoint.trainingName"))]
#[x_kube(validation = Rule::new("self.trigger == 'Once' || self.checkpoint.when == 'Complete'").message("leave checkpoint.when out where trigger is EveryCheckpoint: nothing is waited for"))]
#[x_kube(validation = Rule::new("!has(self.gate) || self.tasks.exists(t, t.name == self.gate.task)").message("gate.task must be the name of one of spec.tasks"))]
#[x_kube(validation = Rule::new(tasks::GATE_METRIC_RULE).message(tasks::GATE_METRIC_MESSAGE))]
pub struct CnClipEvaluationSpec {
    /// Checkpoint to evaluate.
    #[x_kube(validation = Rule::new("self == oldSelf").message("is immutable: another checkpoint is another evaluation"))]
    pub checkpoint: CheckpointSource,
    /// Trigger: evaluate one checkpoint, or every checkpoint of a training.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("is immutable: another trigger is another evaluation"))]
    pub trigger: EvaluationTrigger,
    /// Evaluation tasks.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("is immutable: another task is another evaluation"))]
    pub tasks: Vec<TaskSpec>,
    /// Quality gate. Mutable at any time: recorded results are evaluated again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateSpec>,
    /// Object store prefix for the results. Defaults to `evaluations/<name>/` under the prefix of the
    /// training, with its credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<ArtifactLocation>,
    /// Vocabulary file of the tokenizer. Defaults to that of the training, or that of the trainer image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularyFile>,
    /// Worker pods: count, accelerator, resources. Defaults to one worker of the training, with all its
    /// devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersSpec>,
    /// Batch size: images or texts encoded at a time.
    #[serde(default = "defaults::evaluation_batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub batch_size: i32,
    /// File formats in which the image and text features of every retrieval task are exported with its
    /// results. Unset: not exported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub features: Vec<FeatureFormat>,
    /// Maximum percentage of unusable samples that are skipped before the evaluation fails.
    #[serde(default = "defaults::max_skipped_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub max_skipped_percent: i32,
    /// Retry limits per failure category.
    #[serde(default)]
    pub retries: RetryLimits,
    /// Maximum number of seconds that the pods may be pending (unschedulable, image pull) before the
    /// evaluation fails.
    #[serde(default = "defaults::start_deadline_seconds")]
    #[schemars(range(min = 1, max = 604800))]
    pub start_deadline_seconds: i64,
    /// Maximum duration of the evaluation in seconds, measured from the creation of its first pod. Unset: no
    /// limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub deadline_seconds: Option<i64>,
    /// Name of the Kueue LocalQueue that admits the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub queue_name: Option<String>,
    /// Suspends the evaluation: its pods are terminated. Set to `false` to restart it.
    #[serde(default)]
    pub suspend: bool,
    /// Number of seconds after which the finished evaluation is deleted. Unset: never deleted. Results are
    /// kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i64>,
}

impl CnClipEvaluationSpec {
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

/// Checkpoint to evaluate: from a training, or at a URI.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.trainingName) != has(self.uri)").message("give exactly one of trainingName and uri"))]
pub struct CheckpointSource {
    /// Name of a `CnClipTraining` in the same namespace. The evaluation waits for its checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub training_name: Option<String>,
    /// Point in the training at which the checkpoint is evaluated.
    #[serde(default)]
    pub when: CheckpointWait,
    /// URI of a checkpoint, the prefix of a finished stage, or published weights: a file, a directory, or a
    /// Hugging Face repository as `hf://organisation/name[@revision][/file]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https|hf)://.+')").message("must be s3://…, gs://…, az://…, file://…, https://… or hf://…"))]
    #[schemars(length(max = 1024))]
    pub uri: Option<String>,
}

/// Point in the training that an evaluation waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointWait {
    /// The training is complete. Evaluates the resulting checkpoint of its last stage.
    #[default]
    Complete,
    /// The training has a checkpoint. Evaluates the most recent one.
    FirstCheckpoint,
}
