//! The table that people read at the end of an evaluation. Decides nothing but its looks.

use cnclip_crds::report::{Measured, Metric, Recall, TaskResult, Threshold};

use crate::report::aligned::aligned;

/// Columns of words; those behind them are of numbers.
const WORDS: usize = 2;
const RETRIEVAL: [&str; 6] = ["TASK", "DIRECTION", "R@1", "R@5", "R@10", "MR"];
const ZERO_SHOT: [&str; 7] = [
    "TASK",
    "COMPARED BY",
    "TOP-1",
    "TOP-5",
    "PER CLASS",
    "MAP",
    "AUC",
];
/// The numbers of a classification, in the order of its columns.
const NUMBERS: [Metric; 5] = [
    Metric::Accuracy,
    Metric::Top5,
    Metric::MeanPerClass,
    Metric::MeanAveragePrecision,
    Metric::RocAuc,
];

/// The numbers of all tasks in percent, those of one kind below each other, and the sizes of their pools.
pub fn table(results: &[TaskResult]) -> String {
    let recalls: Vec<_> = results.iter().flat_map(recalls).collect();
    let classified: Vec<_> = results.iter().filter_map(classified).collect();
    let pools: String = results.iter().map(pool).collect();
    aligned((&RETRIEVAL, WORDS), &recalls) + &aligned((&ZERO_SHOT, WORDS), &classified) + &pools
}

fn pool(result: &TaskResult) -> String {
    let TaskResult {
        name,
        images,
        seconds,
        ..
    } = result;

    let others = match &result.measured {
        Measured::Retrieval(scores) => format!("{} texts", scores.texts),
        Measured::ZeroShot(scores) => format!("{} classes", scores.classes),
    };

    let threshold = threshold(result).unwrap_or_default();
    let labels = if is_unlabelled(result) {
        ", no labels"
    } else {
        ""
    };

    format!("{name}: {others}, {images} images, {seconds:.1} s{labels}\n{threshold}")
}

fn threshold(result: &TaskResult) -> Option<String> {
    let Measured::Retrieval(scores) = &result.measured else {
        return None;
    };

    let found = scores.threshold.as_ref()?;
    let Threshold {
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

fn is_unlabelled(result: &TaskResult) -> bool {
    matches!(&result.measured, Measured::Retrieval(scores) if scores.recalls.is_none())
}

fn recalls(result: &TaskResult) -> Vec<Vec<String>> {
    let Measured::Retrieval(scores) = &result.measured else {
        return Vec::new();
    };

    let Some(recalls) = &scores.recalls else {
        return Vec::new();
    };

    let row = |direction: &str, recall: &Recall| {
        let Recall {
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

fn classified(result: &TaskResult) -> Option<Vec<String>> {
    let Measured::ZeroShot(scores) = &result.measured else {
        return None;
    };

    let number = |metric| {
        result
            .score(metric)
            .map_or("–".to_owned(), |value| format!("{value:.1}"))
    };

    let words = [result.name.clone(), scores.headline.to_string()];
    Some(words.into_iter().chain(NUMBERS.map(number)).collect())
}

#[cfg(test)]
mod tests {
    use cnclip_crds::report::{Recalls, RetrievalScores, TemplatesReport, ZeroShotScores};

    use super::*;

    #[test]
    fn columns_stay_in_line_whatever_the_names_and_a_task_without_labels_says_so() {
        let recall = Recall {
            r1: 58.42,
            r5: 83.6,
            r10: 100.0,
            mean_recall: 77.4,
        };

        let recalls = Recalls {
            text_to_image: recall,
            image_to_text: Recall::default(),
        };

        let result = |name: &str, recalls| TaskResult {
            name: name.into(),
            dataset: "d".into(),
            digest: String::new(),
            images: 200,
            seconds: 1.25,
            measured: Measured::Retrieval(RetrievalScores {
                texts: 300,
                recalls,
                threshold: None,
            }),
        };

        assert_eq!(
            table(&[
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
            measured: Measured::ZeroShot(ZeroShotScores {
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
            table(&[
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
            let numbers = Threshold {
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
                measured: Measured::Retrieval(scores),
            };

            threshold(&result).unwrap()
        };

        let reached = "m: no match below 0.3100: above, 90.5 % of first images are right for 60.0 % of texts\n";
        assert_eq!(told(90.0), reached);
        let missed = "m: no similarity makes 95 % of first images right: at best 90.5 % from 0.3100 on, for 60.0 % of texts\n";
        assert_eq!(told(95.0), missed);
    }
}
