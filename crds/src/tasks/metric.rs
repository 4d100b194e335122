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
    /// Texts with a right image first.
    TextToImageR1 = "textToImage.r1" of Retrieval;
    /// Texts with a right image among the first five.
    TextToImageR5 = "textToImage.r5" of Retrieval;
    /// Texts with a right image among the first ten.
    TextToImageR10 = "textToImage.r10" of Retrieval;
    /// Mean of the three from texts to images.
    TextToImageMeanRecall = "textToImage.meanRecall" of Retrieval;
    /// Images with a right text first.
    ImageToTextR1 = "imageToText.r1" of Retrieval;
    /// Images with a right text among the first five.
    ImageToTextR5 = "imageToText.r5" of Retrieval;
    /// Images with a right text among the first ten.
    ImageToTextR10 = "imageToText.r10" of Retrieval;
    /// Mean of the three from images to texts.
    ImageToTextMeanRecall = "imageToText.meanRecall" of Retrieval;
    /// Images whose most probable class is theirs.
    Accuracy = "accuracy" of ZeroShot;
    /// Images whose class is among the five most probable.
    Top5 = "top5" of ZeroShot;
    /// Mean over the classes of the share of their images that are told right.
    MeanPerClass = "meanPerClass" of ZeroShot;
    /// Area under the receiver operating characteristic; for two classes.
    RocAuc = "rocAuc" of ZeroShot;
    /// Mean over the classes of the 11-point interpolated average precision.
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
