//! What the tasks of an evaluation measured.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RecallAtK, RetrievalRecalls};

/// One number that a task can measure, in percent.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[schemars(transform = crate::schema::leave_words_to_fields)]
pub enum Metric {
    /// Texts with a right image first.
    #[serde(rename = "textToImage.r1")]
    TextToImageR1,
    /// Texts with a right image among the first five.
    #[serde(rename = "textToImage.r5")]
    TextToImageR5,
    /// Texts with a right image among the first ten.
    #[serde(rename = "textToImage.r10")]
    TextToImageR10,
    /// Mean of the three from texts to images.
    #[serde(rename = "textToImage.meanRecall")]
    TextToImageMeanRecall,
    /// Images with a right text first.
    #[serde(rename = "imageToText.r1")]
    ImageToTextR1,
    /// Images with a right text among the first five.
    #[serde(rename = "imageToText.r5")]
    ImageToTextR5,
    /// Images with a right text among the first ten.
    #[serde(rename = "imageToText.r10")]
    ImageToTextR10,
    /// Mean of the three from images to texts.
    #[serde(rename = "imageToText.meanRecall")]
    ImageToTextMeanRecall,
    /// Images whose most probable class is theirs.
    #[serde(rename = "accuracy")]
    Accuracy,
    /// Images whose class is among the five most probable.
    #[serde(rename = "top5")]
    Top5,
    /// Mean over the classes of the share of their images that are told right.
    #[serde(rename = "meanPerClass")]
    MeanPerClass,
    /// Area under the receiver operating characteristic; for two classes.
    #[serde(rename = "rocAuc")]
    RocAuc,
    /// Mean over the classes of the 11-point interpolated average precision.
    #[serde(rename = "meanAveragePrecision")]
    MeanAveragePrecision,
}

impl Metric {
    /// Every one of them.
    pub const ALL: [Self; 13] = [
        Self::TextToImageR1,
        Self::TextToImageR5,
        Self::TextToImageR10,
        Self::TextToImageMeanRecall,
        Self::ImageToTextR1,
        Self::ImageToTextR5,
        Self::ImageToTextR10,
        Self::ImageToTextMeanRecall,
        Self::Accuracy,
        Self::Top5,
        Self::MeanPerClass,
        Self::RocAuc,
        Self::MeanAveragePrecision,
    ];

    /// Its name in manifests, reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextToImageR1 => "textToImage.r1",
            Self::TextToImageR5 => "textToImage.r5",
            Self::TextToImageR10 => "textToImage.r10",
            Self::TextToImageMeanRecall => "textToImage.meanRecall",
            Self::ImageToTextR1 => "imageToText.r1",
            Self::ImageToTextR5 => "imageToText.r5",
            Self::ImageToTextR10 => "imageToText.r10",
            Self::ImageToTextMeanRecall => "imageToText.meanRecall",
            Self::Accuracy => "accuracy",
            Self::Top5 => "top5",
            Self::MeanPerClass => "meanPerClass",
            Self::RocAuc => "rocAuc",
            Self::MeanAveragePrecision => "meanAveragePrecision",
        }
    }

    /// Whether it is one of a retrieval's.
    pub fn is_recall(self) -> bool {
        self <= Self::ImageToTextMeanRecall
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one task measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskResult {
    /// Name of the task.
    pub name: String,
    /// The data set.
    pub dataset: String,
    /// sha256 of what describes the data set: its index, or its list of files.
    #[serde(default)]
    pub digest: String,
    /// Images in it that could be used.
    pub images: i64,
    /// How long it took.
    pub seconds: f64,
    /// What came out.
    #[serde(flatten)]
    pub measured: TaskScores,
}

/// What came out of a task, by its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskScores {
    /// Of a retrieval.
    Retrieval(RetrievalScores),
    /// Of a zero-shot classification.
    ZeroShot(ZeroShotScores),
}

/// What a retrieval measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalScores {
    /// Texts in the pool.
    pub texts: i64,
    /// Recall in both directions; none where the data set does not say what belongs together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalls: Option<RetrievalRecalls>,
    /// How similar the first image must be to a text, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<SimilarityThreshold>,
}

/// The similarity from which on the first image that is found for a text is told as its answer; below it
/// there is no match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SimilarityThreshold {
    /// First answers that shall be right, in percent of those told.
    pub wanted: f64,
    /// The inner product of unit features.
    pub similarity: f64,
    /// First answers at least so similar that are right, in percent. Less than wanted where no similarity
    /// reaches that: then these are the best numbers there are, and nothing is told as an answer.
    pub precision: f64,
    /// Texts whose first answer is at least so similar, in percent.
    pub coverage: f64,
}

impl SimilarityThreshold {
    /// Whether the precision is what was wanted.
    pub fn is_reached(&self) -> bool {
        self.precision >= self.wanted
    }
}

/// What a zero-shot classification measured.
///
/// # Units
/// Percent
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ZeroShotScores {
    /// How many classes there are.
    pub classes: i64,
    /// The number that this data set is compared by.
    pub headline: Metric,
    /// Images whose most probable class is theirs.
    pub accuracy: f64,
    /// Images whose class is among the five most probable.
    pub top5: f64,
    /// Mean over the classes of the share of their images that are told right.
    pub mean_per_class: f64,
    /// Area under the receiver operating characteristic, of two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Mean over the classes of the 11-point interpolated average precision.
    pub mean_average_precision: f64,
    /// What the names of the classes were put into.
    #[serde(default)]
    pub templates: TemplatesReport,
}

/// The templates that the names of classes were put into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplatesReport {
    /// The file, or one of this project's sets, such as `cnclip: General`.
    pub from: String,
    /// How many there are.
    pub count: i64,
    /// sha256 of the file.
    pub digest: String,
}

impl TaskResult {
    /// One of its numbers; `None` if it has no such one.
    pub fn find_score(&self, metric: Metric) -> Option<f64> {
        match &self.measured {
            TaskScores::Retrieval(scores) => scores.find_score(metric),
            TaskScores::ZeroShot(scores) => scores.find_score(metric),
        }
    }

    /// The number that it is compared by: R@1 from texts to images, or that of its data set.
    pub fn primary_metric(&self) -> Metric {
        match &self.measured {
            TaskScores::Retrieval(_) => RetrievalScores::PRIMARY_METRIC,
            TaskScores::ZeroShot(scores) => scores.headline,
        }
    }
}

impl RetrievalScores {
    /// The number that retrievals are compared by.
    pub const PRIMARY_METRIC: Metric = Metric::TextToImageR1;

    fn find_score(&self, metric: Metric) -> Option<f64> {
        let RetrievalRecalls {
            text_to_image,
            image_to_text,
        } = self.recalls?;

        let of = |recall: RecallAtK, r1, r5, r10, mean| {
            let RecallAtK {
                r1: first,
                r5: five,
                r10: ten,
                mean_recall,
            } = recall;

            let values = [(r1, first), (r5, five), (r10, ten), (mean, mean_recall)];
            values
                .into_iter()
                .find_map(|(name, value)| (name == metric).then_some(value))
        };

        use Metric as M;
        let r1 = M::TextToImageR1;
        let r5 = M::TextToImageR5;
        let r10 = M::TextToImageR10;
        let there = of(text_to_image, r1, r5, r10, M::TextToImageMeanRecall);
        let r1 = M::ImageToTextR1;
        let r5 = M::ImageToTextR5;
        let r10 = M::ImageToTextR10;

        there.or_else(|| of(image_to_text, r1, r5, r10, M::ImageToTextMeanRecall))
    }
}

impl ZeroShotScores {
    fn find_score(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Accuracy => Some(self.accuracy),
            Metric::Top5 => Some(self.top5),
            Metric::MeanPerClass => Some(self.mean_per_class),
            Metric::RocAuc => self.roc_auc,
            Metric::MeanAveragePrecision => Some(self.mean_average_precision),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(measured: TaskScores) -> TaskResult {
        let (name, dataset) = ("muge".to_owned(), "s3://data/muge/valid/".to_owned());
        TaskResult {
            name,
            dataset,
            digest: String::new(),
            images: 3,
            seconds: 1.0,
            measured,
        }
    }

    #[test]
    fn every_number_is_found_by_its_name_and_only_there() {
        let recall = |r1| RecallAtK {
            r1,
            r5: r1 + 1.0,
            r10: r1 + 2.0,
            mean_recall: r1 + 3.0,
        };

        let recalls = RetrievalRecalls {
            text_to_image: recall(10.0),
            image_to_text: recall(20.0),
        };

        let scores = RetrievalScores {
            texts: 5,
            recalls: Some(recalls),
            threshold: None,
        };

        let retrieval = result(TaskScores::Retrieval(scores));
        let zero_shot = result(TaskScores::ZeroShot(ZeroShotScores {
            classes: 2,
            headline: Metric::RocAuc,
            accuracy: 1.0,
            top5: 2.0,
            mean_per_class: 3.0,
            roc_auc: Some(4.0),
            mean_average_precision: 5.0,
            templates: TemplatesReport::default(),
        }));

        let named = |name: &str| serde_json::from_str::<Metric>(&format!("\"{name}\"")).unwrap();
        for (name, value) in [
            ("textToImage.r1", 10.0),
            ("textToImage.r5", 11.0),
            ("textToImage.r10", 12.0),
            ("textToImage.meanRecall", 13.0),
            ("imageToText.r1", 20.0),
            ("imageToText.r5", 21.0),
            ("imageToText.r10", 22.0),
            ("imageToText.meanRecall", 23.0),
        ] {
            assert_eq!(retrieval.find_score(named(name)), Some(value), "{name}");
            assert_eq!(zero_shot.find_score(named(name)), None, "{name}");
            assert_eq!(named(name).name(), name);
        }

        let names = [
            "accuracy",
            "top5",
            "meanPerClass",
            "rocAuc",
            "meanAveragePrecision",
        ];

        for (name, value) in names.into_iter().zip([1.0, 2.0, 3.0, 4.0, 5.0]) {
            assert_eq!(zero_shot.find_score(named(name)), Some(value), "{name}");
            assert_eq!(retrieval.find_score(named(name)), None, "{name}");
            assert_eq!(named(name).name(), name);
        }

        assert_eq!(zero_shot.primary_metric(), Metric::RocAuc);
    }

    #[test]
    fn a_result_reads_like_the_task_that_asked_for_it() {
        let scores = RetrievalScores {
            texts: 5,
            ..RetrievalScores::default()
        };

        let json = serde_json::to_value(result(TaskScores::Retrieval(scores))).unwrap();
        assert_eq!(json["retrieval"], serde_json::json!({"texts": 5}));
    }
}
