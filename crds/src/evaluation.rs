//! `CnClipEvaluation`: one checkpoint scored on a list of tasks, and what the operator last saw of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    shared::{Artifacts, LastFailure, RecallsStatus, Restarts, Retries, VocabularyFile, Workers},
    training::StageState,
};

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
    printcolumn(name = "Tasks", type_ = "string", json_path = ".status.summary.tasks"),
    printcolumn(name = "R@1", type_ = "string", json_path = ".status.summary.r1"),
    printcolumn(name = "R@5", type_ = "string", json_path = ".status.summary.r5"),
    printcolumn(name = "R@10", type_ = "string", json_path = ".status.summary.r10"),
    printcolumn(name = "MR", type_ = "string", json_path = ".status.summary.meanRecall"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts.total"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.artifacts) || has(self.checkpoint.trainingName)").message("artifacts must be given when the checkpoint is a uri"))]
pub struct CnClipEvaluationSpec {
    /// What is scored.
    #[x_kube(validation = Rule::new("self == oldSelf").message("is immutable: another checkpoint is another evaluation"))]
    pub checkpoint: CheckpointSource,
    /// What is measured.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("is immutable: another task is another evaluation"))]
    pub tasks: Vec<Task>,
    /// Where results go. The default for a training is `evaluations/<name>/` under its prefix, with
    /// its credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Artifacts>,
    /// The vocabulary. The default is the training's, or that of the trainer image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularyFile>,
    /// Who does it. The default is the training's workers, one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<Workers>,
    /// Pictures or texts encoded at once.
    #[serde(default = "batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub batch_size: i32,
    /// Samples that may be skipped as unusable before the evaluation fails, in percent.
    #[serde(default = "max_skipped_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub max_skipped_percent: i32,
    /// How often something may fail before the evaluation is given up.
    #[serde(default)]
    pub retries: Retries,
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
    pub when: When,
    /// A checkpoint, the prefix of a stage that ended, or weights that others published: a file, a
    /// folder, or `hf://organisation/name[@revision][/file]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https|hf)://.+')").message("must be s3://…, gs://…, az://…, file://…, https://… or hf://…"))]
    #[schemars(length(max = 1024))]
    pub uri: Option<String>,
}

/// What an evaluation waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum When {
    /// The training is complete; the checkpoint its last stage ended with is scored.
    #[default]
    Complete,
    /// The training has a checkpoint; the newest is scored.
    FirstCheckpoint,
}

/// One thing to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.retrieval) != has(self.zeroShot)").message("give exactly one of retrieval and zeroShot"))]
pub struct Task {
    /// Name of the task.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Retrieval in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
    /// Classification by names of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShot>,
}

/// Every text of a data set against every image, and back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retrieval {
    /// The prefix of the data set, such as `s3://data/muge/valid/`.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub dataset: String,
}

/// Classification of pictures by the Chinese names of their classes, without training on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZeroShot {
    /// The prefix of the data set in the layout of ELEVATER, such as `s3://data/elevater/cifar-100/`.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub dataset: String,
}

/// What the operator last saw of the evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CnClipEvaluationStatus {
    /// The `metadata.generation` that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// All of them from the first write on.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How it stands.
    #[serde(default)]
    pub state: StageState,
    /// Attempts made, the present one included.
    #[serde(default)]
    pub attempt: i32,
    /// What is scored, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// What was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<ResultStatus>,
    /// Where the report is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Restarts so far.
    #[serde(default)]
    pub restarts: Restarts,
    /// The last thing that went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// When the trainer last said something (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<String>,
    /// The most memory the worker held, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<i64>,
    /// When the first pod was made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// For the eye: the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<EvaluationSummary>,
}

/// What one task measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultStatus {
    /// Name of the task.
    pub name: String,
    /// Images in the pool.
    pub images: i64,
    /// Of a retrieval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalStatus>,
    /// Of a zero-shot classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShotStatus>,
}

/// What a retrieval measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalStatus {
    /// Texts in the pool.
    pub texts: i64,
    /// Recall in both directions; none where the data set does not say what belongs together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalls: Option<RecallsStatus>,
}

/// What a zero-shot classification measured, in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZeroShotStatus {
    /// How many classes there are.
    pub classes: i64,
    /// Name of the number that this data set is compared by.
    pub headline: String,
    /// Images whose most probable class is theirs.
    pub accuracy: String,
    /// Images whose class is among the five most probable.
    pub top5: String,
    /// Mean over the classes of the share of their images that are told right.
    pub mean_per_class: String,
    /// Area under the receiver operating characteristic, of two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<String>,
    /// Mean over the classes of the 11-point interpolated average precision.
    pub mean_average_precision: String,
}

/// The columns of `kubectl get`: text to image, of the first retrieval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationSummary {
    /// Such as `2/3`.
    pub tasks: String,
    /// R@1 in percent.
    pub r1: String,
    /// R@5 in percent.
    pub r5: String,
    /// R@10 in percent.
    pub r10: String,
    /// Mean of the three.
    pub mean_recall: String,
}
