//! The table of results that `cnclip evaluate` prints.

use cnclip_crds::tasks::{TaskKind, TaskResult};

use super::present_scores;
use crate::text_table::format_table;

/// Columns of text, which are left-aligned; the others are numbers.
const TEXT_COLUMNS: usize = 2;

/// Formats the scores of all tasks in percent, a table for each kind, and the sizes of the data sets.
pub fn format_results_table(results: &[TaskResult]) -> String {
    let tables = TaskKind::ALL.map(|kind| format_kind_table(results, kind));
    let pools = results.iter().map(format_pool);
    tables.into_iter().chain(pools).collect()
}

fn format_kind_table(results: &[TaskResult], kind: TaskKind) -> String {
    let mut columns: &[&str] = &[];
    let mut rows = Vec::new();

    for result in results {
        if result.measured.kind() == kind {
            let scores = present_scores(&result.measured);
            columns = scores.table_columns();
            rows.extend(scores.table_rows(&result.name));
        }
    }

    format_table(columns, TEXT_COLUMNS, &rows)
}

fn format_pool(result: &TaskResult) -> String {
    let TaskResult {
        name,
        images,
        seconds,
        ..
    } = result;

    let scores = present_scores(&result.measured);
    let size = scores.pool_size();
    let labels = if scores.is_labeled() {
        ""
    } else {
        ", no labels"
    };

    let footnote = scores.footnote();
    let footnote = footnote.map(|footnote| format!("{name}: {footnote}\n"));
    let footnote = footnote.unwrap_or_default();

    format!("{name}: {size}, {images} images, {seconds:.1} s{labels}\n{footnote}")
}

#[cfg(test)]
mod tests {
    use cnclip_crds::tasks::{
        Metric, RecallAtK, RetrievalRecalls, RetrievalScores, SimilarityThreshold, TaskScores,
        TemplatesReport, ZeroShotScores,
    };

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
    fn a_threshold_is_shown_or_why_there_is_none() {
        let shown = |wanted| {
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

            let table = format_results_table(&[result]);
            let (pool, threshold) = table.split_once('\n').unwrap();
            assert_eq!(pool, "m: 3 texts, 2 images, 1.0 s, no labels");
            threshold.to_owned()
        };

        let reached = "m: no match below 0.3100: above, 90.5 % of first images are right for 60.0 % of texts\n";
        assert_eq!(shown(90.0), reached);
        let missed = "m: no similarity makes 95 % of first images right: at best 90.5 % from 0.3100 on, for 60.0 % of texts\n";
        assert_eq!(shown(95.0), missed);
    }
}
