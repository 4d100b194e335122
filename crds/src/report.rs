//! What a trainer says of itself: on `/progress`, in its log, and as its last words. No transport.

mod task;

use serde::{Deserialize, Serialize};

use crate::trainer_config::RunIdentity;
pub use task::{
    Metric, RetrievalScores, SimilarityThreshold, TaskResult, TaskScores, TemplatesReport,
    ZeroShotScores,
};

/// What a trainer is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrainerActivity {
    /// Reading its file, its data and its weights.
    #[default]
    Starting,
    /// Taking steps.
    Training,
    /// Measuring recall on the validation pairs.
    Validating,
    /// Encoding and scoring.
    Evaluating,
    /// Ended well.
    Done,
    /// Ended badly; `failure` says why.
    Failed,
}

/// Recall in one direction.
///
/// # Units
/// Percent of queries with at least one relevant candidate among the first 1, 5 and 10.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecallAtK {
    /// Among the first.
    pub r1: f64,
    /// Among the first five.
    pub r5: f64,
    /// Among the first ten.
    pub r10: f64,
    /// Mean of the three.
    pub mean_recall: f64,
}

/// Recall in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalRecalls {
    /// Texts ask, images answer.
    pub text_to_image: RecallAtK,
    /// Images ask, texts answer.
    pub image_to_text: RecallAtK,
}

/// Recall measured on the validation pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidationReport {
    /// After this many steps.
    pub step: i64,
    /// What came out.
    pub recalls: RetrievalRecalls,
}

/// A checkpoint that is whole in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointReport {
    /// Steps completed.
    pub step: i64,
    /// Where it is.
    pub uri: String,
    /// sha256 of its manifest.
    pub digest: String,
    /// When it became visible, in seconds since 1970.
    pub written_at: i64,
}

/// How many checkpoints are told and on record.
pub const MAX_CHECKPOINTS: usize = 8;

/// Why a trainer ended badly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureReport {
    /// The exit code.
    pub exit_code: i32,
    /// What was tried, on what, what was found, and what to do.
    pub message: String,
}

/// What an evaluation scores, and with what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationReport {
    /// The weights that were found; none until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// sha256 of the manifest of their checkpoint, if they are one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Whether there is no checkpoint where one was named.
    #[serde(default)]
    pub missing: bool,
    /// The trainer's version.
    pub version: String,
}

/// How a trainer fits into the memory there is.
///
/// # Units
/// Bytes
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryReport {
    /// Pairs that a device computes at once.
    pub micro_batch_size: i32,
    /// Whether the towers compute again what their gradient needs.
    pub gradient_checkpointing: bool,
    /// What the worker needs, as planned before the first step.
    pub needed: i64,
    /// What it may have.
    pub available: i64,
    /// Whether these are half as many pairs as were planned first, after a lack of memory.
    #[serde(default)]
    pub halved: bool,
}

/// The state of one trainer, whole; each report replaces the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressReport {
    /// Whose.
    pub run: RunIdentity,
    /// UID of the pod; empty by hand.
    #[serde(default)]
    pub pod_uid: String,
    /// What it is doing.
    pub activity: TrainerActivity,
    /// Steps completed in this stage over all restarts, skipped ones among them; tasks done for an
    /// evaluation.
    pub step: i64,
    /// Steps of the stage; tasks for an evaluation. 0 until known.
    pub steps: i64,
    /// Passes over the data.
    #[serde(default)]
    pub epoch: f64,
    /// Mean loss since the last report, in nats; a teacher's part is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Mean distance from the teacher's features since the last report: 1 − cosine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation_loss: Option<f64>,
    /// The rate of the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Natural logarithm of the factor on the similarities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_scale: Option<f64>,
    /// Norm of the gradient of the last step, before it was scaled to `maxGradientNorm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Pairs a second since the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<f64>,
    /// Seconds until the last step at this rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// Pairs trained on over all restarts.
    #[serde(default)]
    pub samples_seen: i64,
    /// Samples skipped because they could not be used.
    #[serde(default)]
    pub samples_skipped: i64,
    /// Steps without a finite loss and gradient, which changed nothing.
    #[serde(default)]
    pub steps_skipped: i64,
    /// The newest checkpoints of this attempt, newest first: several may be written between two looks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<CheckpointReport>,
    /// The last validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationReport>,
    /// The best validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<ValidationReport>,
    /// What an evaluation scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationReport>,
    /// What an evaluation measured so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<TaskResult>,
    /// What was planned of its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryReport>,
    /// The most memory it has held.
    #[serde(default)]
    pub peak_rss_bytes: i64,
    /// Seconds spent in steps in this attempt.
    #[serde(default)]
    pub train_seconds: f64,
    /// Seconds of this attempt that this worker's first rank waited for other ranks.
    #[serde(default)]
    pub wait_seconds: f64,
    /// When this was said, in seconds since 1970.
    pub reported_at: i64,
    /// Why it ended badly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureReport>,
}
