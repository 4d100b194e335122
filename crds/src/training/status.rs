//! What the operator last saw of a run. Only the operator writes it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{LastFailure, RecallsStatus, RestartCounts};

/// What the operator last saw of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CnClipTrainingStatus {
    /// The `metadata.generation` that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// All of them from the first write on.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Every stage, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageStatus>,
    /// Restarts so far.
    #[serde(default)]
    pub restarts: RestartCounts,
    /// The last thing that went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// The newest whole checkpoints, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<CheckpointStatus>,
    /// Where the page for people is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// When the first pod was made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// For the eye: the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<TrainingSummary>,
}

/// How one stage stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StageState {
    /// Its turn has not come.
    #[default]
    Pending,
    /// Its pods are being made.
    Starting,
    /// A trainer reports.
    Running,
    /// Held back by the user.
    Suspended,
    /// Done.
    Succeeded,
    /// A checkpoint that was gone before it could be scored.
    Skipped,
    /// Given up.
    Failed,
}

/// One stage as it was last seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Name of the stage.
    pub name: String,
    /// How it stands.
    #[serde(default)]
    pub state: StageState,
    /// Attempts made, the present one included.
    #[serde(default)]
    pub attempt: i32,
    /// Steps completed over all attempts.
    #[serde(default)]
    pub step: i64,
    /// Steps in all; 0 until known.
    #[serde(default)]
    pub steps: i64,
    /// Mean loss of the last report, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// Learning rate of the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<String>,
    /// Pairs a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<String>,
    /// Pairs trained on.
    #[serde(default)]
    pub samples_seen: i64,
    /// Samples skipped because they could not be used.
    #[serde(default)]
    pub samples_skipped: i64,
    /// Seconds to the end of the stage at this rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// The best recall on the validation pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<ValidationStatus>,
    /// The most memory a worker held, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<i64>,
    /// Whether its workers compute half as many pairs at once as would fit, because an attempt ran out
    /// of memory.
    #[serde(default)]
    pub micro_batch_halved: bool,
    /// When its first pod was made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// When the trainer last said something (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<String>,
}

/// Recall on the validation pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidationStatus {
    /// After this many steps.
    pub step: i64,
    /// What came out.
    pub recalls: RecallsStatus,
}

/// A whole checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// Stage that made it.
    pub stage: String,
    /// Steps completed in it.
    pub step: i64,
    /// Where it is.
    pub uri: String,
    /// sha256 of its manifest.
    pub digest: String,
    /// When it became visible (RFC 3339).
    pub written_at: String,
}

/// The columns of `kubectl get`. For the eye only; programs read the fields beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainingSummary {
    /// Such as `2/3 pretrain`.
    pub stage: String,
    /// Such as `48200/183000`.
    pub step: String,
    /// Loss.
    pub loss: String,
    /// Best text-to-image R@1 on the validation pairs, in percent.
    pub r1: String,
    /// Pairs a second.
    pub samples_per_second: String,
    /// Time to the end of the stage, such as `1d3h`.
    pub eta: String,
}
