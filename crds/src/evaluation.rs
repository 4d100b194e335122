//! `CnClipEvaluation`: one checkpoint scored on a list of tasks, and what the operator last saw of it.

mod gate;
mod status;
mod task;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{ArtifactLocation, RetryLimits, VocabularyFile, WorkersSpec};
use crate::trainer_config::FeatureFormat;
pub use gate::{EvaluationTrigger, GateBaseline, GateSpec};
pub use status::{
    CnClipEvaluationStatus, DatasetProvenance, EvaluationProvenance, EvaluationSummary,
    PrimaryMetricStatus, ResultStatus, RetrievalStatus, ScoredCheckpoint, ThresholdStatus,
    ZeroShotStatus,
};
pub use task::{CalibrationSpec, RetrievalSpec, TaskSpec, ZeroShotSpec};

/// One checkpoint scored on a list of tasks.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "cnclip.dev",
    version = "v1alpha1",
    kind = "CnClipEvaluation",
    doc = "One Chinese-CLIP checkpoint scored on a list of tasks.",
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
#[x_kube(validation = Rule::new("!has(self.gate) || self.tasks.all(t, t.name != self.gate.task || has(t.retrieval) == self.gate.metric.contains('.'))").message("gate.metric must be one of the task's kind: textToImage.… and imageToText.… of a retrieval, the others of a zeroShot"))]
pub struct CnClipEvaluationSpec {
    /// What is scored.
    #[x_kube(validation = Rule::new("self == oldSelf").message("is immutable: another checkpoint is another evaluation"))]
    pub checkpoint: CheckpointSource,
    /// Whether one checkpoint is scored, or each as it appears.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("is immutable: another trigger is another evaluation"))]
    pub trigger: EvaluationTrigger,
    /// What is measured.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("is immutable: another task is another evaluation"))]
    pub tasks: Vec<TaskSpec>,
    /// What must be reached to pass. May be changed at any time: the numbers on record are judged again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateSpec>,
    /// Where results go. The default for a training is `evaluations/<name>/` under its prefix, with
    /// its credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<ArtifactLocation>,
    /// The vocabulary. The default is the training's, or that of the trainer image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularyFile>,
    /// Who does it. The default is one of the training's workers, with all its devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersSpec>,
    /// Pictures or texts encoded at once.
    #[serde(default = "batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub batch_size: i32,
    /// In which formats the features of the images and texts of every retrieval are written beside its
    /// results. None if not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub features: Vec<FeatureFormat>,
    /// Samples that may be skipped as unusable before the evaluation fails, in percent.
    #[serde(default = "max_skipped_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub max_skipped_percent: i32,
    /// How often something may fail before the evaluation is given up.
    #[serde(default)]
    pub retries: RetryLimits,
    /// Seconds that the evaluation may wait for its pod to run before it fails.
    #[serde(default = "start_deadline_seconds")]
    #[schemars(range(min = 1, max = 604800))]
    pub start_deadline_seconds: i64,
    /// Seconds that the evaluation may take from its first pod on. Unlimited if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub deadline_seconds: Option<i64>,
    /// Kueue queue that the pod is admitted through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub queue_name: Option<String>,
    /// Ends the pod; set back to `false` to begin again.
    #[serde(default)]
    pub suspend: bool,
    /// Seconds after its end when the object is deleted. Kept for ever if not given. Results stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i64>,
}

fn batch_size() -> i32 {
    256
}
fn max_skipped_percent() -> i32 {
    1
}
fn start_deadline_seconds() -> i64 {
    1800
}

/// What is scored: a training's outcome or a checkpoint anywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.trainingName) != has(self.uri)").message("give exactly one of trainingName and uri"))]
pub struct CheckpointSource {
    /// A `CnClipTraining` in the same namespace. The evaluation waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub training_name: Option<String>,
    /// What is waited for in a training.
    #[serde(default)]
    pub when: CheckpointWait,
    /// A checkpoint, the prefix of a stage that ended, or weights that others published: a file, a
    /// folder, or `hf://organisation/name[@revision][/file]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https|hf)://.+')").message("must be s3://…, gs://…, az://…, file://…, https://… or hf://…"))]
    #[schemars(length(max = 1024))]
    pub uri: Option<String>,
}

/// What an evaluation waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointWait {
    /// The training is complete; the checkpoint its last stage ended with is scored.
    #[default]
    Complete,
    /// The training has a checkpoint; the newest is scored.
    FirstCheckpoint,
}
