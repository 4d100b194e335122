//! Status of an evaluation. Written by the operator only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{LastFailure, RestartCounts},
    tasks::{PrimaryMetricStatus, ResultStatus, TemplatesReport},
    training::StageState,
};

/// Most recently observed state of an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CnClipEvaluationStatus {
    /// The `metadata.generation` that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions of the evaluation. Every condition type is present from the first status update on.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Phase of the evaluation.
    #[serde(default)]
    pub state: StageState,
    /// Number of attempts, including the current one.
    #[serde(default)]
    pub attempt: i32,
    /// URI of the evaluated checkpoint, once resolved. With trigger EveryCheckpoint: that of the current
    /// checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Results of the tasks. With trigger EveryCheckpoint: of the most recent checkpoint that is completely
    /// evaluated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<ResultStatus>,
    /// Provenance of the results: checkpoint, data sets, image and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<EvaluationProvenance>,
    /// With trigger EveryCheckpoint: the 50 most recent checkpoints, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ScoredCheckpoint>,
    /// URI of the HTML report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Number of restarts.
    #[serde(default)]
    pub restarts: RestartCounts,
    /// Most recent failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Time of the last progress report of the trainer (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<String>,
    /// Peak memory usage of the worker, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<i64>,
    /// Creation time of the first pod (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// Completion time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Printer columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<EvaluationSummary>,
}

/// Provenance of the results: everything needed to reproduce them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationProvenance {
    /// URI of the resolved weights.
    pub checkpoint: String,
    /// SHA-256 digest of the checkpoint manifest; unset for published weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Data set of each task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<DatasetProvenance>,
    /// Trainer image, as configured.
    pub image: String,
    /// Trainer image with the digest that the node pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Version of the trainer.
    pub version: String,
}

/// Data set of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetProvenance {
    /// Name of the task.
    pub task: String,
    /// URI of the data set.
    pub uri: String,
    /// SHA-256 digest of the data set's index, or of its file list.
    pub digest: String,
    /// Prompt templates of a zero-shot classification task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<TemplatesReport>,
}

/// Evaluation of one checkpoint of a training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScoredCheckpoint {
    /// Name of this evaluation; part of its pods' names, and the folder of its results under the artifact
    /// prefix.
    pub name: String,
    /// Phase of this evaluation.
    #[serde(default)]
    pub state: StageState,
    /// Number of attempts, including the current one.
    #[serde(default)]
    pub attempt: i32,
    /// Training stage that wrote the checkpoint.
    pub stage: String,
    /// Completed steps of that stage.
    pub step: i64,
    /// URI of the checkpoint.
    pub checkpoint: String,
    /// SHA-256 digest of the checkpoint manifest.
    pub digest: String,
    /// Primary metric of each task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<PrimaryMetricStatus>,
    /// Reason why the checkpoint was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Time at which the checkpoint was evaluated or skipped (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
}

/// Printer columns of `kubectl get`: the primary metric of the first task, and the text-to-image recall of
/// the first retrieval task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationSummary {
    /// Completed and total tasks, such as `2/3`.
    pub tasks: String,
    /// Name of the primary metric of the first task.
    #[serde(default)]
    pub metric: String,
    /// Primary metric in percent: `kubectl get cce --sort-by=.status.summary.score`.
    #[serde(default)]
    pub score: String,
    /// `Passed`, `Failed` or `Waiting`; empty without a gate.
    #[serde(default)]
    pub gate: String,
    /// R@1 in percent.
    pub r1: String,
    /// R@5 in percent.
    pub r5: String,
    /// R@10 in percent.
    pub r10: String,
    /// Mean of R@1, R@5 and R@10.
    pub mean_recall: String,
}
