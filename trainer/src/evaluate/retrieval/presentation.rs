//! How the scores of a retrieval are shown.

use cnclip_crds::tasks::{
    Metric, RecallAtK, RetrievalRecalls, RetrievalScores, SimilarityThreshold,
};

use crate::evaluate::presentation::ScorePresentation;

impl ScorePresentation for RetrievalScores {
    fn table_columns(&self) -> &'static [&'static str] {
        &["TASK", "DIRECTION", "R@1", "R@5", "R@10", "MR"]
    }

    fn table_rows(&self, task: &str) -> Vec<Vec<String>> {
        let Some(recalls) = &self.recalls else {
            return Vec::new();
        };

        vec![
            recall_row(task, "text→image", &recalls.text_to_image),
            recall_row(task, "image→text", &recalls.image_to_text),
        ]
    }

    fn pool_size(&self) -> String {
        format!("{} texts", self.texts)
    }

    fn is_labeled(&self) -> bool {
        self.recalls.is_some()
    }

    fn footnote(&self) -> Option<String> {
        self.threshold.as_ref().map(describe_threshold)
    }

    fn page_metrics(&self) -> &'static [Metric] {
        &[
            Metric::TextToImageR1,
            Metric::TextToImageR10,
            Metric::ImageToTextR10,
        ]
    }

    fn log_scores(&self, task: &str, images: i64) {
        let Some(recalls) = &self.recalls else {
            let texts = self.texts;
            return tracing::info!(task, texts, images, "searched without labels");
        };

        let text_to_image = format_recall(&recalls.text_to_image);
        let image_to_text = format_recall(&recalls.image_to_text);
        tracing::info!(task, text_to_image, image_to_text, "scored");

        if let Some(threshold) = &self.threshold {
            log_threshold(task, threshold);
        }
    }
}

fn recall_row(task: &str, direction: &str, recall: &RecallAtK) -> Vec<String> {
    let RecallAtK {
        r1,
        r5,
        r10,
        mean_recall,
    } = recall;

    let mut row = vec![task.to_owned(), direction.to_owned()];
    row.extend([r1, r5, r10, mean_recall].map(|percent| format!("{percent:.1}")));
    row
}

fn describe_threshold(threshold: &SimilarityThreshold) -> String {
    let SimilarityThreshold {
        wanted,
        similarity,
        precision,
        coverage,
    } = threshold;

    if threshold.is_reached() {
        format!(
            "no match below {similarity:.4}: above, {precision:.1} % of first images are right for \
             {coverage:.1} % of texts"
        )
    } else {
        format!(
            "no similarity makes {wanted} % of first images right: at best {precision:.1} % from \
             {similarity:.4} on, for {coverage:.1} % of texts"
        )
    }
}

fn log_threshold(task: &str, threshold: &SimilarityThreshold) {
    let SimilarityThreshold {
        wanted,
        similarity,
        precision,
        coverage,
    } = threshold;

    let reached = threshold.is_reached();
    tracing::info!(
        task,
        wanted,
        reached,
        similarity,
        precision,
        coverage,
        "calibrated"
    );
}

/// The recalls of a validation, as the log shows them.
pub fn log_validation(step: i64, recalls: &RetrievalRecalls) {
    let text_to_image = format_recall(&recalls.text_to_image);
    let image_to_text = format_recall(&recalls.image_to_text);
    tracing::info!(step, text_to_image, image_to_text, "validated");
}

fn format_recall(recall: &RecallAtK) -> String {
    let RecallAtK {
        r1,
        r5,
        r10,
        mean_recall,
    } = recall;

    format!("R@1 {r1:.1} R@5 {r5:.1} R@10 {r10:.1} MR {mean_recall:.1}")
}
