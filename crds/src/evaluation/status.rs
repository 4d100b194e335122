//! What the operator last saw of an evaluation. Only the operator writes it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    shared::{LastFailure, RecallsStatus, Restarts},
    training::StageState,
};

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
