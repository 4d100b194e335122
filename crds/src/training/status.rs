//! Status of a training run. Written by the operator only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{LastFailure, RestartCounts};
use crate::tasks::RecallsStatus;

/// Most recently observed state of a training run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CnClipTrainingStatus {
    /// The `metadata.generation` that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions of the run. Every condition type is present from the first status update on.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Status of every stage, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageStatus>,
    /// Number of restarts.
    #[serde(default)]
    pub restarts: RestartCounts,
    /// Most recent failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Most recent complete checkpoints, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<CheckpointStatus>,
    /// URI of the HTML report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Creation time of the first pod (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// Completion time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Printer columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<TrainingSummary>,
}

/// Phase of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StageState {
    /// Not started.
    #[default]
    Pending,
    /// Pods are created or pending.
    Starting,
    /// The trainer reports progress.
    Running,
    /// Suspended by `spec.suspend`.
    Suspended,
    /// Completed successfully.
    Succeeded,
    /// The checkpoint was deleted before it could be evaluated.
    Skipped,
    /// Failed: no further retries.
    Failed,
}

/// Most recently observed state of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Name of the stage.
    pub name: String,
    /// Phase of the stage.
    #[serde(default)]
    pub state: StageState,
    /// Number of attempts, including the current one.
    #[serde(default)]
    pub attempt: i32,
    /// Completed steps across all attempts.
    #[serde(default)]
    pub step: i64,
    /// Total number of steps; 0 until known.
    #[serde(default)]
    pub steps: i64,
    /// Mean training loss of the last report, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// Learning rate of the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<String>,
    /// Throughput in samples per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<String>,
    /// Number of samples processed.
    #[serde(default)]
    pub samples_seen: i64,
    /// Number of unusable samples skipped.
    #[serde(default)]
    pub samples_skipped: i64,
    /// Estimated time to the end of the stage, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// Best validation recall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<ValidationStatus>,
    /// Peak memory usage of a worker, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<i64>,
    /// Whether the automatic micro-batch size is halved, after an attempt that ran out of memory.
    #[serde(default)]
    pub micro_batch_halved: bool,
    /// Why the last checkpoint could not be written; unset once one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_error: Option<String>,
    /// Creation time of the first pod of the stage (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// Completion time of the stage (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Time of the last progress report of the trainer (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<String>,
}

/// Retrieval recall on the validation data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidationStatus {
    /// Step of the validation.
    pub step: i64,
    /// Recall in both directions.
    pub recalls: RecallsStatus,
}

/// A complete checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// Stage that wrote the checkpoint.
    pub stage: String,
    /// Completed steps of the stage.
    pub step: i64,
    /// URI of the checkpoint.
    pub uri: String,
    /// SHA-256 digest of the checkpoint manifest.
    pub digest: String,
    /// Time at which the checkpoint was completed (RFC 3339).
    pub written_at: String,
}

/// Printer columns of `kubectl get`, formatted for display. Clients should read the other status fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainingSummary {
    /// Current stage, such as `2/3 pretrain`.
    pub stage: String,
    /// Completed and total steps, such as `48200/183000`.
    pub step: String,
    /// Training loss.
    pub loss: String,
    /// Best text-to-image R@1 on the validation data set, in percent.
    pub r1: String,
    /// Throughput in samples per second.
    pub samples_per_second: String,
    /// Estimated time to the end of the stage, such as `1d3h`.
    pub eta: String,
}
