//! Image-text retrieval in both directions.

#[cfg(feature = "kube")]
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Metric, format_percent};

/// Public retrieval benchmark with published results.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(transform = crate::schema::leave_words_to_fields)]
pub enum Benchmark {
    /// MUGE validation split: e-commerce queries, text-to-image only.
    MugeValid,
    /// Flickr30K-CN test split.
    Flickr30kCnTest,
    /// COCO-CN test split.
    CocoCnTest,
}

/// Image-text retrieval over a data set, in both directions.
#[cfg(feature = "kube")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalSpec {
    /// URI prefix of the data set, such as `s3://data/MUGE/valid`: of its shards, or of a split in the
    /// reference's layout (`valid_imgs.tsv` and `valid_texts.jsonl` next to it, or LMDB in `lmdb/valid`), which
    /// each worker first converts to shards in `/tmp`.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub dataset: String,
    /// Public benchmark of the data set. The report then shows its published results next to the measured ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<Benchmark>,
    /// Calibration of the similarity threshold below which a text has no match. Requires a data set with ground
    /// truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationSpec>,
}

/// Calibration of the similarity threshold of a match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CalibrationSpec {
    /// Required precision of the matches, in percent. The lowest threshold that reaches it is chosen, which
    /// maximizes coverage.
    #[schemars(range(min = 1, max = 100))]
    pub precision_percent: i32,
}

#[cfg(feature = "kube")]
impl RetrievalSpec {
    /// What the trainer reads of it.
    pub fn to_config(&self) -> RetrievalConfig {
        let calibration = self
            .calibration
            .as_ref()
            .map(|calibration| CalibrationConfig {
                precision_percent: calibration.precision_percent.into(),
            });

        RetrievalConfig {
            dataset: self.dataset.clone(),
            benchmark: self.benchmark,
            calibration,
        }
    }
}

/// Retrieval over one data set, as the trainer reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetrievalConfig {
    /// The data set.
    pub dataset: String,
    /// The public data set that it is; its published scores are then shown beside the measured ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<Benchmark>,
    /// Finds the similarity below which there is no match; not done if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationConfig>,
}

/// How the similarity threshold is fitted on the labels of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CalibrationConfig {
    /// Precision that the answers at or above the threshold must have, in percent.
    pub precision_percent: f64,
}

/// Recall in one direction.
///
/// # Units
/// Percent of queries with at least one relevant candidate among the first 1, 5 and 10.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecallAtK {
    /// Recall at 1.
    pub r1: f64,
    /// Recall at 5.
    pub r5: f64,
    /// Recall at 10.
    pub r10: f64,
    /// Mean of the three.
    pub mean_recall: f64,
}

/// Retrieval recall in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalRecalls {
    /// Text-to-image retrieval.
    pub text_to_image: RecallAtK,
    /// Image-to-text retrieval.
    pub image_to_text: RecallAtK,
}

impl RetrievalRecalls {
    /// Mean recall over both directions.
    ///
    /// # Units
    /// Percent
    pub fn mean_recall(&self) -> f64 {
        (self.text_to_image.mean_recall + self.image_to_text.mean_recall) / 2.0
    }
}

/// What a retrieval measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalScores {
    /// Texts in the pool.
    pub texts: i64,
    /// Recall in both directions; none where the data set has no labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalls: Option<RetrievalRecalls>,
    /// The similarity threshold, where a calibration was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<SimilarityThreshold>,
}

/// The similarity from which on the nearest image counts as a match for a text; below it there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SimilarityThreshold {
    /// The requested precision, in percent.
    pub wanted: f64,
    /// The inner product of unit features.
    pub similarity: f64,
    /// Precision of the nearest images at or above the threshold, in percent. Below `wanted` where no
    /// similarity reaches that: then it is the best precision there is, and no answers are written.
    pub precision: f64,
    /// Texts whose nearest image is at or above the threshold, in percent.
    pub coverage: f64,
}

impl SimilarityThreshold {
    /// Whether the requested precision is reached.
    pub fn is_reached(&self) -> bool {
        self.precision >= self.wanted
    }
}

// The scores that a trainer reports and their text in the status have fields of the same names; a macro
// reads both by one table, where a function would need a trait over `f64` and `String`.
macro_rules! recall_by_metric {
    ($recalls:expr, $metric:expr) => {
        match $metric {
            Metric::TextToImageR1 => Some(&$recalls.text_to_image.r1),
            Metric::TextToImageR5 => Some(&$recalls.text_to_image.r5),
            Metric::TextToImageR10 => Some(&$recalls.text_to_image.r10),
            Metric::TextToImageMeanRecall => Some(&$recalls.text_to_image.mean_recall),
            Metric::ImageToTextR1 => Some(&$recalls.image_to_text.r1),
            Metric::ImageToTextR5 => Some(&$recalls.image_to_text.r5),
            Metric::ImageToTextR10 => Some(&$recalls.image_to_text.r10),
            Metric::ImageToTextMeanRecall => Some(&$recalls.image_to_text.mean_recall),
            _ => None,
        }
    };
}

impl RetrievalScores {
    /// The metric that retrievals are compared by.
    // Text-to-image, because some benchmarks, such as MUGE, have no other direction.
    pub const PRIMARY_METRIC: Metric = Metric::TextToImageR1;

    /// One of its scores; `None` where it was not measured.
    pub fn find_score(&self, metric: Metric) -> Option<f64> {
        let recalls = self.recalls.as_ref()?;
        recall_by_metric!(recalls, metric).copied()
    }
}

/// Retrieval recall in percent, as decimal strings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecallStatus {
    /// Recall at 1: percentage of queries whose first candidate is relevant.
    pub r1: String,
    /// Recall at 5.
    pub r5: String,
    /// Recall at 10.
    pub r10: String,
    /// Mean of R@1, R@5 and R@10.
    pub mean_recall: String,
}

/// Retrieval recall in both directions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecallsStatus {
    /// Text-to-image retrieval.
    pub text_to_image: RecallStatus,
    /// Image-to-text retrieval.
    pub image_to_text: RecallStatus,
}

/// Result of a retrieval task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalStatus {
    /// Number of query texts.
    pub texts: i64,
    /// Retrieval recall in both directions; unset if the data set has no ground truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalls: Option<RecallsStatus>,
    /// Calibrated similarity threshold, if calibration was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<ThresholdStatus>,
}

/// Similarity threshold below which a text has no match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ThresholdStatus {
    /// Whether a threshold reaches the requested precision. If not, the other fields describe the threshold
    /// with the highest precision.
    pub reached: bool,
    /// Cosine similarity of the features.
    pub similarity: String,
    /// Precision in percent: relevant images among the first candidates at or above the threshold.
    pub precision: String,
    /// Coverage in percent: texts whose first candidate is at or above the threshold.
    pub coverage: String,
}

impl RetrievalStatus {
    /// One of its scores as text; `None` where it was not measured.
    pub fn find_score(&self, metric: Metric) -> Option<&str> {
        let recalls = self.recalls.as_ref()?;
        recall_by_metric!(recalls, metric).map(String::as_str)
    }
}

impl RetrievalScores {
    /// The scores as the status shows them.
    pub fn to_status(&self) -> RetrievalStatus {
        RetrievalStatus {
            texts: self.texts,
            recalls: self.recalls.as_ref().map(RetrievalRecalls::to_status),
            threshold: self.threshold.map(SimilarityThreshold::to_status),
        }
    }
}

impl RetrievalRecalls {
    /// The recalls as the status shows them.
    pub fn to_status(&self) -> RecallsStatus {
        RecallsStatus {
            text_to_image: self.text_to_image.to_status(),
            image_to_text: self.image_to_text.to_status(),
        }
    }
}

impl RecallAtK {
    fn to_status(self) -> RecallStatus {
        RecallStatus {
            r1: format_percent(self.r1),
            r5: format_percent(self.r5),
            r10: format_percent(self.r10),
            mean_recall: format_percent(self.mean_recall),
        }
    }
}

impl SimilarityThreshold {
    fn to_status(self) -> ThresholdStatus {
        ThresholdStatus {
            reached: self.is_reached(),
            // Unit features that match differ in the second or third decimal: two would round them together.
            similarity: format!("{:.4}", self.similarity),
            precision: format_percent(self.precision),
            coverage: format_percent(self.coverage),
        }
    }
}
