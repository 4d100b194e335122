//! The table of results that `cnclip evaluate` prints.

use cnclip_crds::tasks::{Metric, RecallAtK, SimilarityThreshold, TaskResult, TaskScores};

use crate::text_table::format_table;

/// Columns of text, which are left-aligned; the others are numbers.
const TEXT_COLUMNS: usize = 2;
const RETRIEVAL_COLUMNS: [&str; 6] = ["TASK", "DIRECTION", "R@1", "R@5", "R@10", "MR"];
const ZERO_SHOT_COLUMNS: [&str; 7] = [
    "TASK",
    "COMPARED BY",
    "TOP-1",
    "TOP-5",
    "PER CLASS",
    "MAP",
    "AUC",
];
/// The metrics of a classification, in the order of its columns.
const ZERO_SHOT_METRICS: [Metric; 5] = [
    Metric::Accuracy,
    Metric::Top5,
    Metric::MeanPerClass,
    Metric::MeanAveragePrecision,
    Metric::RocAuc,
];

/// Formats the scores of all tasks in percent, a table for each kind, and the sizes of the data sets.
pub fn format_results_table(results: &[TaskResult]) -> String {
    let recalls: Vec<_> = results.iter().flat_map(recall_rows).collect();
    let classified: Vec<_> = results.iter().filter_map(zero_shot_row).collect();
    let pools: String = results.iter().map(format_pool).collect();
    format_table(&RETRIEVAL_COLUMNS, TEXT_COLUMNS, &recalls)
        + &format_table(&ZERO_SHOT_COLUMNS, TEXT_COLUMNS, &classified)
        + &pools
}

fn format_pool(result: &TaskResult) -> String {
    let TaskResult {
        name,
        images,
        seconds,
        ..
    } = result;

    let others = match &result.measured {
        TaskScores::Retrieval(scores) => format!("{} texts", scores.texts),
        TaskScores::ZeroShot(scores) => format!("{} classes", scores.classes),
    };

    let threshold = format_threshold(result).unwrap_or_default();
    let labels = if is_unlabeled(result) {
        ", no labels"
    } else {
        ""
    };

    format!("{name}: {others}, {images} images, {seconds:.1} s{labels}\n{threshold}")
}

fn format_threshold(result: &TaskResult) -> Option<String> {
    let TaskScores::Retrieval(scores) = &result.measured else {
        return None;
    };

    let found = scores.threshold.as_ref()?;
    let SimilarityThreshold {
        wanted,
        similarity,
        precision,
        coverage,
    } = found;

    let name = &result.name;
    Some(match found.is_reached() {
        true => format!(
            "{name}: no match below {similarity:.4}: above, {precision:.1} % of first images are right \
             for {coverage:.1} % of texts\n"
        ),
        false => format!(
            "{name}: no similarity makes {wanted} % of first images right: at best {precision:.1} % \
             from {similarity:.4} on, for {coverage:.1} % of texts\n"
        ),
    })
}

fn is_unlabeled(result: &TaskResult) -> bool {
    matches!(&result.measured, TaskScores::Retrieval(scores) if scores.recalls.is_none())
}

fn recall_rows(result: &TaskResult) -> Vec<Vec<String>> {
    let TaskScores::Retrieval(scores) = &result.measured else {
        return Vec::new();
    };

    let Some(recalls) = &scores.recalls else {
        return Vec::new();
    };

    let row = |direction: &str, recall: &RecallAtK| {
        let RecallAtK {
            r1,
            r5,
            r10,
            mean_recall,
        } = recall;

        let numbers = [r1, r5, r10, mean_recall].map(|value| format!("{value:.1}"));
        [result.name.clone(), direction.into()]
            .into_iter()
            .chain(numbers)
            .collect()
    };

    vec![
        row("text→image", &recalls.text_to_image),
        row("image→text", &recalls.image_to_text),
    ]
}

fn zero_shot_row(result: &TaskResult) -> Option<Vec<String>> {
    let TaskScores::ZeroShot(scores) = &result.measured else {
        return None;
    };

    let number = |metric| {
        result
            .find_score(metric)
            .map_or("–".to_owned(), |value| format!("{value:.1}"))
    };

    let labels = [result.name.clone(), scores.headline.to_string()];
    Some(
        labels
            .into_iter()
            .chain(ZERO_SHOT_METRICS.map(number))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use cnclip_crds::tasks::{RetrievalRecalls, RetrievalScores, TemplatesReport, ZeroShotScores};

    use super::*;

    #[test]
    fn columns_stay_in_line_whatever_the_names_and_a_task_without_labels_says_so() {
        let recall = RecallAtK {
            r1: 58.42,
            r5: 83.6,
            r10: 100.0,
            mean_recall: 77.4,
        };

        let recalls = RetrievalRecalls {
            text_to_image: recall,
            image_to_text: RecallAtK::default(),
        };

        let result = |name: &str, recalls| TaskResult {
            name: name.into(),
            dataset: "d".into(),
            digest: String::new(),
            images: 200,
            seconds: 1.25,
            measured: TaskScores::Retrieval(RetrievalScores {
                texts: 300,
                recalls,
                threshold: None,
            }),
        };

        assert_eq!(
            format_results_table(&[
                result("m", Some(recalls)),
                result("flickr", Some(recalls)),
                result("test", None)
            ]),
            "TASK    DIRECTION    R@1   R@5   R@10    MR\n\
             m       text→image  58.4  83.6  100.0  77.4\n\
             m       image→text   0.0   0.0    0.0   0.0\n\
             flickr  text→image  58.4  83.6  100.0  77.4\n\
             flickr  image→text   0.0   0.0    0.0   0.0\n\
             m: 300 texts, 200 images, 1.2 s\n\
             flickr: 300 texts, 200 images, 1.2 s\n\
             test: 300 texts, 200 images, 1.2 s, no labels\n"
        );
    }

    #[test]
    fn classifications_have_columns_of_their_own() {
        let result = |name: &str, headline, roc_auc| TaskResult {
            name: name.into(),
            dataset: "d".into(),
            digest: String::new(),
            images: 200,
            seconds: 1.0,
            measured: TaskScores::ZeroShot(ZeroShotScores {
                classes: 2,
                headline,
                accuracy: 96.0,
                top5: 100.0,
                mean_per_class: 95.52,
                roc_auc,
                mean_average_precision: 71.3,
                templates: TemplatesReport::default(),
            }),
        };

        assert_eq!(
            format_results_table(&[
                result("memes", Metric::RocAuc, Some(53.7)),
                result("pets", Metric::MeanPerClass, None)
            ]),
            "TASK   COMPARED BY   TOP-1  TOP-5  PER CLASS   MAP   AUC\n\
             memes  rocAuc         96.0  100.0       95.5  71.3  53.7\n\
             pets   meanPerClass   96.0  100.0       95.5  71.3     –\n\
             memes: 2 classes, 200 images, 1.0 s\n\
             pets: 2 classes, 200 images, 1.0 s\n"
        );
    }

    #[test]
    fn a_threshold_is_told_or_why_there_is_none() {
        let told = |wanted| {
            let numbers = SimilarityThreshold {
                similarity: 0.31,
                precision: 90.5,
                coverage: 60.0,
                wanted,
            };

            let scores = RetrievalScores {
                texts: 3,
                threshold: Some(numbers),
                recalls: None,
            };

            let result = TaskResult {
                name: "m".into(),
                dataset: "d".into(),
                digest: String::new(),
                images: 2,
                seconds: 1.0,
                measured: TaskScores::Retrieval(scores),
            };

            format_threshold(&result).unwrap()
        };

        let reached = "m: no match below 0.3100: above, 90.5 % of first images are right for 60.0 % of texts\n";
        assert_eq!(told(90.0), reached);
        let missed = "m: no similarity makes 95 % of first images right: at best 90.5 % from 0.3100 on, for 60.0 % of texts\n";
        assert_eq!(told(95.0), missed);
    }
}
