//! What a trainer reads to score a checkpoint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DistributedConfig, PinnedFile, RunIdentity, max_skipped_percent};
use crate::{
    benchmark::Benchmark,
    report::Metric,
    zero_shot::{DatasetPreset, TemplateSet},
};

/// One thing to measure: exactly one of its kinds is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskConfig {
    /// Name of the task.
    pub name: String,
    /// Retrieval in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalConfig>,
    /// Classification by names of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShotConfig>,
}

/// Retrieval over one data set: every text against every image, and back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetrievalConfig {
    /// The data set.
    pub dataset: String,
    /// The public data set that it is, for the published numbers beside its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<Benchmark>,
    /// Finds the similarity below which there is no match; not done if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationConfig>,
}

/// How similar the first image must be to a text, found on the labels of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CalibrationConfig {
    /// First answers that shall be right, in percent of those told.
    pub precision_percent: f64,
}

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

/// Classification of pictures by the Chinese names of their classes, without training on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ZeroShotConfig {
    /// The prefix of the data set.
    pub dataset: String,
    /// Which data set it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<DatasetPreset>,
    /// Which of our own templates the names are put into; those of the preset, or else the general ones,
    /// if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_set: Option<TemplateSet>,
    /// A file of templates, one a line, with `{}` where the name of a class goes, instead of our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<String>,
    /// The number that it is compared by; that of the preset, or else the accuracy, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
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
    #[serde(default = "batch_size")]
    pub batch_size: i32,
    /// Samples that may be skipped before the evaluation fails, in percent.
    #[serde(default = "max_skipped_percent")]
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

fn batch_size() -> i32 {
    256
}
