//! What a trainer reads to score a checkpoint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DistributedConfig, PinnedFile, RunIdentity};
use crate::{defaults, tasks::TaskConfig};

/// A format of files of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FeatureFormat {
    /// A JSON object a line, as the reference writes them.
    Jsonl,
    /// One NumPy array of fp32 rows, and the ids beside it, one a line.
    Npy,
    /// Columns `id` and `feature`.
    Parquet,
}

/// One evaluation: the whole of `cnclip evaluate --config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvaluateConfig {
    /// Who is running.
    pub run: RunIdentity,
    /// A checkpoint, or the prefix of a stage: then the one it ended with, or else its newest.
    pub checkpoint: String,
    /// The vocabulary; the checkpoint's own, or else the image's, where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<PinnedFile>,
    /// What to measure.
    pub tasks: Vec<TaskConfig>,
    /// The prefix of the results.
    pub artifacts: String,
    /// Pictures or texts encoded at once.
    #[serde(default = "defaults::evaluation_batch_size")]
    pub batch_size: i32,
    /// Samples that may be skipped before the evaluation fails, in percent.
    #[serde(default = "defaults::max_skipped_percent_f64")]
    pub max_skipped_percent: f64,
    /// Who does it. Without an accelerator a rank computes on the card of its number all the same, where
    /// there is one; scores are fp32 whatever the precision.
    #[serde(default)]
    pub world: DistributedConfig,
    /// In which formats the features of images and texts are written; none if not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<FeatureFormat>,
    /// Where `/progress`, `/metrics` and `/healthz` answer; nowhere if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
}
