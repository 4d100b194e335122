//! What the table, the log and the report page show of a task's scores. Each kind of task implements it.

use cnclip_crds::tasks::Metric;

/// The scores of one kind of task, as they are shown.
pub trait ScorePresentation {
    /// The columns of the kind's table. The first two are text, the others numbers.
    fn table_columns(&self) -> &'static [&'static str];

    /// Its rows in that table; none where there is nothing to compare with.
    fn table_rows(&self, task: &str) -> Vec<Vec<String>>;

    /// What the task has apart from images, such as `300 texts`.
    fn pool_size(&self) -> String;

    /// Whether the data set has ground truth.
    fn is_labeled(&self) -> bool {
        true
    }

    /// A sentence below the table, if there is more to say.
    fn footnote(&self) -> Option<String> {
        None
    }

    /// The metrics that the page shows one by one, in this order; those that were not measured are left out.
    fn page_metrics(&self) -> &'static [Metric];

    /// Logs the scores of a task with this many images.
    // Not as plain data: the names of the fields of a `tracing` event must be constants.
    fn log_scores(&self, task: &str, images: i64);
}
