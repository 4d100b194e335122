//! What a page says of a task in numbers: the line in the list of all, and what was published beside
//! what was measured. Measures nothing.

use cnclip_crds::model::Architecture;
use cnclip_crds::report::{Measured, Metric, Recalls};
use serde::Serialize;

use super::Task;
use super::published::Beside;

/// A task, and what is told of it.
#[derive(Serialize)]
pub(super) struct Scores<'a> {
    task: &'a Task,
    kind: &'static str,
    /// The number that tells most of it.
    headline: Number,
    /// All numbers of a classification.
    numbers: Vec<Number>,
    /// Those of a retrieval; none where the data set does not say what belongs together.
    recalls: Option<Recalls>,
    published: Option<Beside>,
}

#[derive(Serialize)]
struct Number {
    metric: &'static str,
    value: Option<f64>,
}

/// What a classification may measure.
const CLASSIFICATION: [Metric; 5] = [
    Metric::Accuracy,
    Metric::Top5,
    Metric::MeanPerClass,
    Metric::RocAuc,
    Metric::MeanAveragePrecision,
];

impl<'a> Scores<'a> {
    pub(super) fn of(task: &'a Task, model: Option<Architecture>) -> Self {
        let result = &task.result;
        let number = |metric| Number {
            metric: title(metric),
            value: result.score(metric),
        };

        let (kind, recalls) = match &result.measured {
            Measured::Retrieval(scores) => ("retrieval", scores.recalls),
            Measured::ZeroShot(_) => ("zero-shot", None),
        };

        let numbers = CLASSIFICATION
            .into_iter()
            .map(number)
            .filter(|one| one.value.is_some());

        Self {
            task,
            kind,
            headline: number(result.headline()),
            numbers: numbers.collect(),
            recalls,
            published: Beside::of(task, model),
        }
    }
}

/// A metric as people call it.
fn title(metric: Metric) -> &'static str {
    match metric {
        Metric::TextToImageR1 => "R@1 text→image",
        Metric::TextToImageR5 => "R@5 text→image",
        Metric::TextToImageR10 => "R@10 text→image",
        Metric::TextToImageMeanRecall => "mean recall text→image",
        Metric::ImageToTextR1 => "R@1 image→text",
        Metric::ImageToTextR5 => "R@5 image→text",
        Metric::ImageToTextR10 => "R@10 image→text",
        Metric::ImageToTextMeanRecall => "mean recall image→text",
        Metric::Accuracy => "accuracy",
        Metric::Top5 => "top-5 accuracy",
        Metric::MeanPerClass => "mean per class",
        Metric::RocAuc => "ROC AUC",
        Metric::MeanAveragePrecision => "11-point mAP",
    }
}
