//! The table that people read at the end of an evaluation. Decides nothing but its looks.

use cnclip_crds::report::{Measured, Recall, TaskResult, Threshold};

const HEAD: [&str; 6] = ["TASK", "DIRECTION", "R@1", "R@5", "R@10", "MR"];

/// Recalls of all tasks in both directions, in percent, with the sizes of their pools.
pub fn table(results: &[TaskResult]) -> String {
    let rows: Vec<_> = results.iter().flat_map(rows).flatten().collect();
    let longest = rows.iter().map(|row| row[0].chars().count());
    let name = longest.chain([HEAD[0].len()]).max().unwrap_or(0);
    let line = |cells: &[String; 6]| {
        let [task, direction, r1, r5, r10, mean] = cells;
        format!("{task:<name$}  {direction:<12}  {r1:>5}  {r5:>5}  {r10:>5}  {mean:>5}\n")
    };
    let head = line(&HEAD.map(String::from));
    let pools = results.iter().map(pool);
    [head].into_iter().chain(rows.iter().map(line)).chain(pools).collect()
}

fn pool(result: &TaskResult) -> String {
    let TaskResult { name, images, seconds, .. } = result;
    let others = match &result.measured {
        Measured::Retrieval(scores) => format!("{} texts", scores.texts),
        Measured::ZeroShot(scores) => format!("{} classes", scores.classes),
    };
    let threshold = threshold(result).unwrap_or_default();
    let labels = if is_unlabelled(result) { ", no labels" } else { "" };
    format!("{name}: {others}, {images} images, {seconds:.1} s{labels}\n{threshold}")
}

fn threshold(result: &TaskResult) -> Option<String> {
    let Measured::Retrieval(scores) = &result.measured else { return None };
    let found = scores.threshold.as_ref()?;
    let Threshold { wanted, similarity, precision, coverage } = found;
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

fn rows(result: &TaskResult) -> Option<[[String; 6]; 2]> {
    let Measured::Retrieval(scores) = &result.measured else { return None };
    let recalls = scores.recalls.as_ref()?;
    let row = |direction: &str, recall: &Recall| {
        let Recall { r1, r5, r10, mean_recall } = recall;
        let [r1, r5, r10, mean] = [r1, r5, r10, mean_recall].map(|value| format!("{value:.1}"));
        [result.name.clone(), direction.into(), r1, r5, r10, mean]
    };
    Some([row("text→image", &recalls.text_to_image), row("image→text", &recalls.image_to_text)])
}

#[cfg(test)]
mod tests {
    use cnclip_crds::report::{Recalls, RetrievalScores};

    use super::*;

    #[test]
    fn columns_stay_in_line_whatever_the_names_and_a_task_without_labels_says_so() {
        let recall = Recall { r1: 58.42, r5: 83.6, r10: 100.0, mean_recall: 77.4 };
        let recalls = Recalls { text_to_image: recall, image_to_text: Recall::default() };
        let result = |name: &str, recalls| TaskResult {
            name: name.into(),
            dataset: "d".into(),
            digest: String::new(),
            images: 200,
            seconds: 1.25,
            measured: Measured::Retrieval(RetrievalScores { texts: 300, recalls, threshold: None }),
        };
        assert_eq!(
            table(&[
                result("m", Some(recalls)),
                result("flickr", Some(recalls)),
                result("test", None)
            ]),
            "TASK    DIRECTION       R@1    R@5   R@10     MR\n\
             m       text→image     58.4   83.6  100.0   77.4\n\
             m       image→text      0.0    0.0    0.0    0.0\n\
             flickr  text→image     58.4   83.6  100.0   77.4\n\
             flickr  image→text      0.0    0.0    0.0    0.0\n\
             m: 300 texts, 200 images, 1.2 s\n\
             flickr: 300 texts, 200 images, 1.2 s\n\
             test: 300 texts, 200 images, 1.2 s, no labels\n"
        );
    }

    #[test]
    fn a_threshold_is_told_or_why_there_is_none() {
        let told = |wanted| {
            let numbers = Threshold { similarity: 0.31, precision: 90.5, coverage: 60.0, wanted };
            let scores = RetrievalScores { texts: 3, threshold: Some(numbers), recalls: None };
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
