//! The metrics that tasks measure, each with its name and its task in one table.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TaskKind;

// One row a metric: documentation, variant, name, task. The enum, its serialized names, its list and its
// lookups are all made of these rows, so that a new metric cannot be missing from one of them.
macro_rules! metrics {
    ($($(#[$doc:meta])+ $metric:ident = $name:literal of $task:ident;)+) => {
        /// One number that a task can measure, in percent.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
        )]
        #[schemars(transform = crate::schema::leave_words_to_fields)]
        pub enum Metric {
            $($(#[$doc])+ #[serde(rename = $name)] $metric,)+
        }

        impl Metric {
            /// Every metric.
            pub const ALL: &'static [Self] = &[$(Self::$metric),+];

            /// Its name in manifests, reports and exported metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$metric => $name,)+
                }
            }

            /// The kind of task that measures it.
            pub fn task_kind(self) -> TaskKind {
                match self {
                    $(Self::$metric => TaskKind::$task,)+
                }
            }
        }
    };
}

metrics! {
    /// Text-to-image recall at 1.
    TextToImageR1 = "textToImage.r1" of Retrieval;
    /// Text-to-image recall at 5.
    TextToImageR5 = "textToImage.r5" of Retrieval;
    /// Text-to-image recall at 10.
    TextToImageR10 = "textToImage.r10" of Retrieval;
    /// Mean of text-to-image R@1, R@5 and R@10.
    TextToImageMeanRecall = "textToImage.meanRecall" of Retrieval;
    /// Image-to-text recall at 1.
    ImageToTextR1 = "imageToText.r1" of Retrieval;
    /// Image-to-text recall at 5.
    ImageToTextR5 = "imageToText.r5" of Retrieval;
    /// Image-to-text recall at 10.
    ImageToTextR10 = "imageToText.r10" of Retrieval;
    /// Mean of image-to-text R@1, R@5 and R@10.
    ImageToTextMeanRecall = "imageToText.meanRecall" of Retrieval;
    /// Top-1 accuracy.
    Accuracy = "accuracy" of ZeroShot;
    /// Top-5 accuracy.
    Top5 = "top5" of ZeroShot;
    /// Mean per-class accuracy.
    MeanPerClass = "meanPerClass" of ZeroShot;
    /// Area under the ROC curve, for two classes.
    RocAuc = "rocAuc" of ZeroShot;
    /// 11-point interpolated mean average precision.
    MeanAveragePrecision = "meanAveragePrecision" of ZeroShot;
}

impl Metric {
    /// Whether a retrieval measures it.
    pub fn is_recall(self) -> bool {
        self.task_kind() == TaskKind::Retrieval
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
