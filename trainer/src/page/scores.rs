//! The scores of a task: its row in the list of all, and published scores for comparison. Measures nothing.

use cnclip_crds::model::Architecture;
use cnclip_crds::tasks::{Metric, RetrievalRecalls, TaskScores};
use serde::Serialize;

use super::TaskSection;
use super::published::PublishedComparison;

/// A task with its scores.
#[derive(Serialize)]
pub(super) struct TaskScoreSection<'a> {
    task: &'a TaskSection,
    kind: &'static str,
    /// The primary metric.
    headline: MetricValue,
    /// All numbers of a classification.
    numbers: Vec<MetricValue>,
    /// Those of a retrieval; none where the data set does not say what belongs together.
    recalls: Option<RetrievalRecalls>,
    published: Option<PublishedComparison>,
}

#[derive(Serialize)]
struct MetricValue {
    metric: &'static str,
    value: Option<f64>,
}

/// What a classification may measure.
const CLASSIFICATION_METRICS: [Metric; 5] = [
    Metric::Accuracy,
    Metric::Top5,
    Metric::MeanPerClass,
    Metric::RocAuc,
    Metric::MeanAveragePrecision,
];

impl<'a> TaskScoreSection<'a> {
    pub(super) fn from_task(task: &'a TaskSection, model: Option<Architecture>) -> Self {
        let result = &task.result;
        let number = |metric| MetricValue {
            metric: metric_title(metric),
            value: result.find_score(metric),
        };

        let (kind, recalls) = match &result.measured {
            TaskScores::Retrieval(scores) => ("retrieval", scores.recalls),
            TaskScores::ZeroShot(_) => ("zero-shot", None),
        };

        let numbers = CLASSIFICATION_METRICS
            .into_iter()
            .map(number)
            .filter(|one| one.value.is_some());

        Self {
            task,
            kind,
            headline: number(result.primary_metric()),
            numbers: numbers.collect(),
            recalls,
            published: PublishedComparison::for_task(task, model),
        }
    }
}

/// A metric as people call it.
fn metric_title(metric: Metric) -> &'static str {
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
