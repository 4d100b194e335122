//! Progress report of a trainer: served on `/progress`, logged, and written as the termination message.

use serde::{Deserialize, Serialize};

use crate::tasks::{RetrievalRecalls, TaskResult};
use crate::trainer_config::RunIdentity;

/// Current activity of a trainer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrainerActivity {
    /// Loading configuration, data and weights.
    #[default]
    Starting,
    /// Training.
    Training,
    /// Computing recall on the validation data set.
    Validating,
    /// Encoding and scoring.
    Evaluating,
    /// Completed.
    Done,
    /// Failed; `failure` has the cause.
    Failed,
}

/// Retrieval recall on the validation data set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidationReport {
    /// Step of the validation.
    pub step: i64,
    /// Recall in both directions.
    pub recalls: RetrievalRecalls,
}

impl ValidationReport {
    /// Mean recall over both directions: what validations and checkpoints are compared by.
    ///
    /// # Units
    /// Percent
    pub fn mean_recall(&self) -> f64 {
        self.recalls.mean_recall()
    }

    /// The better of this validation and an earlier one; this one of equals.
    pub fn best_of(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(earlier) if earlier.mean_recall() > self.mean_recall() => earlier,
            _ => self,
        }
    }
}

/// A complete checkpoint in the object store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointReport {
    /// Completed steps.
    pub step: i64,
    /// URI of the checkpoint.
    pub uri: String,
    /// SHA-256 digest of the checkpoint manifest.
    pub digest: String,
    /// Time at which the checkpoint was completed, as a Unix timestamp in seconds.
    pub written_at: i64,
}

/// Maximum number of checkpoints in a report and in the status.
// Bounds the termination message, which has 4096 bytes, and the status.
pub const MAX_CHECKPOINTS: usize = 8;

/// Failure of a trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureReport {
    /// Exit code.
    pub exit_code: i32,
    /// Cause of the failure and suggested remedy.
    pub message: String,
}

/// Subject of an evaluation: checkpoint and trainer version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationReport {
    /// URI of the resolved weights; unset until resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// SHA-256 digest of the checkpoint manifest; unset for published weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Whether the configured checkpoint does not exist.
    #[serde(default)]
    // Stated by the trainer instead of derived from its exit code, which is the same for any
    // unusable data.
    pub missing: bool,
    /// Version of the trainer.
    pub version: String,
}

/// Planned memory usage of a trainer.
///
/// # Units
/// Bytes
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryReport {
    /// Micro-batch size per device.
    pub micro_batch_size: i32,
    /// Whether gradient checkpointing is enabled.
    pub gradient_checkpointing: bool,
    /// Estimated peak memory usage of the worker.
    pub needed: i64,
    /// Memory available to the worker.
    pub available: i64,
    /// Whether the automatic micro-batch size was halved after an out-of-memory failure.
    #[serde(default)]
    pub halved: bool,
}

/// Complete state of one trainer; each report replaces the previous one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressReport {
    /// Identity of the reporting attempt.
    pub run: RunIdentity,
    /// UID of the pod; empty outside Kubernetes.
    #[serde(default)]
    pub pod_uid: String,
    /// Current activity.
    pub activity: TrainerActivity,
    /// Completed steps of the stage across all restarts, including skipped steps; completed tasks of an
    /// evaluation.
    pub step: i64,
    /// Total steps of the stage; total tasks of an evaluation. 0 until known.
    pub steps: i64,
    /// Completed epochs.
    #[serde(default)]
    pub epoch: f64,
    /// Mean training loss since the last report, in nats; includes the distillation loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Mean distillation loss (1 − cosine similarity) since the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation_loss: Option<f64>,
    /// Learning rate of the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Logit scale, as the natural logarithm of the factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_scale: Option<f64>,
    /// Global L2 norm of the gradient of the last step, before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Throughput since the last report, in samples per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<f64>,
    /// Estimated time to the last step, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// Number of samples processed across all restarts.
    #[serde(default)]
    pub samples_seen: i64,
    /// Number of unusable samples skipped.
    #[serde(default)]
    pub samples_skipped: i64,
    /// Number of steps skipped because of a non-finite loss or gradient.
    #[serde(default)]
    pub steps_skipped: i64,
    /// Most recent checkpoints of this attempt, newest first: several may be written between two polls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<CheckpointReport>,
    /// Number of checkpoints that could not be written in this attempt.
    #[serde(default)]
    pub checkpoints_failed: i64,
    /// Why the last checkpoint could not be written; unset once one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_error: Option<String>,
    /// Most recent validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationReport>,
    /// Best validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<ValidationReport>,
    /// Subject of an evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationReport>,
    /// Results of the completed tasks of an evaluation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<TaskResult>,
    /// Planned memory usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryReport>,
    /// Peak memory usage, in bytes.
    #[serde(default)]
    pub peak_rss_bytes: i64,
    /// Time spent in training steps in this attempt, in seconds.
    #[serde(default)]
    pub train_seconds: f64,
    /// Time that the first rank of this worker waited for other ranks in this attempt, in seconds.
    #[serde(default)]
    pub wait_seconds: f64,
    /// Time of the report, as a Unix timestamp in seconds.
    pub reported_at: i64,
    /// Failure, if the trainer failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureReport>,
}
