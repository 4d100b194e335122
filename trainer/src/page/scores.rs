//! The scores of a task: its row in the list of all, and published scores for comparison. Measures nothing.

use cnclip_crds::model::Architecture;
use cnclip_crds::tasks::Metric;
use serde::Serialize;

use super::TaskSection;
use super::published::PublishedComparison;
use crate::evaluate::present_scores;

/// A task with its scores.
#[derive(Serialize)]
pub(super) struct TaskScoreSection<'a> {
    task: &'a TaskSection,
    kind: &'static str,
    /// The primary metric.
    headline: MetricValue,
    /// The metrics that are shown one by one.
    numbers: Vec<MetricValue>,
    published: Option<PublishedComparison>,
}

#[derive(Serialize)]
struct MetricValue {
    metric: &'static str,
    value: Option<f64>,
}

impl<'a> TaskScoreSection<'a> {
    pub(super) fn from_task(task: &'a TaskSection, model: Option<Architecture>) -> Self {
        let result = &task.result;
        let number = |metric: Metric| MetricValue {
            metric: metric.title(),
            value: result.find_score(metric),
        };

        let shown = present_scores(&result.measured).page_metrics();
        let numbers = shown.iter().copied().map(number);
        let measured = numbers.filter(|number| number.value.is_some());

        Self {
            task,
            kind: result.measured.kind().title(),
            headline: number(result.primary_metric()),
            numbers: measured.collect(),
            published: PublishedComparison::for_task(task, model),
        }
    }
}
