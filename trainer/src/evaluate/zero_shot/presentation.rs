//! How the scores of a zero-shot classification are shown.

use cnclip_crds::tasks::{Metric, ZeroShotScores};

use crate::evaluate::presentation::ScorePresentation;

/// The metrics in the order of the table's columns.
const TABLE_METRICS: [Metric; 5] = [
    Metric::Accuracy,
    Metric::Top5,
    Metric::MeanPerClass,
    Metric::MeanAveragePrecision,
    Metric::RocAuc,
];

impl ScorePresentation for ZeroShotScores {
    fn table_columns(&self) -> &'static [&'static str] {
        &[
            "TASK",
            "COMPARED BY",
            "TOP-1",
            "TOP-5",
            "PER CLASS",
            "MAP",
            "AUC",
        ]
    }

    fn table_rows(&self, task: &str) -> Vec<Vec<String>> {
        let mut row = vec![task.to_owned(), self.headline.to_string()];
        row.extend(TABLE_METRICS.map(|metric| format_score(self.find_score(metric))));
        vec![row]
    }

    fn pool_size(&self) -> String {
        format!("{} classes", self.classes)
    }

    fn page_metrics(&self) -> &'static [Metric] {
        &[
            Metric::Accuracy,
            Metric::Top5,
            Metric::MeanPerClass,
            Metric::RocAuc,
            Metric::MeanAveragePrecision,
        ]
    }

    fn log_scores(&self, task: &str, _images: i64) {
        let accuracy = self.accuracy;
        let metric = self.headline;
        let headline = self.find_score(metric);
        tracing::info!(task, accuracy, ?metric, headline, "scored");
    }
}

fn format_score(percent: Option<f64>) -> String {
    percent.map_or("–".to_owned(), |percent| format!("{percent:.1}"))
}
