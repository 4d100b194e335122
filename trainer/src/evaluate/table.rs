//! The table that people read at the end of an evaluation. Decides nothing but its looks.

use cnclip_crds::report::{Recall, TaskResult};

const HEAD: [&str; 6] = ["TASK", "DIRECTION", "R@1", "R@5", "R@10", "MR"];

/// Recalls of all tasks in both directions, in percent, with the sizes of their pools.
pub fn table(results: &[TaskResult]) -> String {
    let rows: Vec<_> = results.iter().flat_map(rows).collect();
    let longest = rows.iter().map(|row| row[0].chars().count());
    let name = longest.chain([HEAD[0].len()]).max().unwrap_or(0);
    let line = |cells: &[String; 6]| {
        let [task, direction, r1, r5, r10, mean] = cells;
        format!("{task:<name$}  {direction:<12}  {r1:>5}  {r5:>5}  {r10:>5}  {mean:>5}\n")
    };
    let head = line(&HEAD.map(String::from));
    let pools = results.iter().map(|result| {
        let TaskResult { name, images, texts, seconds, .. } = result;
        format!("{name}: {texts} texts, {images} images, {seconds:.1} s\n")
    });
    [head].into_iter().chain(rows.iter().map(line)).chain(pools).collect()
}

fn rows(result: &TaskResult) -> [[String; 6]; 2] {
    let row = |direction: &str, recall: &Recall| {
        let Recall { r1, r5, r10, mean_recall } = recall;
        let [r1, r5, r10, mean] = [r1, r5, r10, mean_recall].map(|value| format!("{value:.1}"));
        [result.name.clone(), direction.into(), r1, r5, r10, mean]
    };
    [
        row("text→image", &result.recalls.text_to_image),
        row("image→text", &result.recalls.image_to_text),
    ]
}

#[cfg(test)]
mod tests {
    use cnclip_crds::report::Recalls;

    use super::*;

    #[test]
    fn columns_stay_in_line_whatever_the_names() {
        let recall = Recall { r1: 58.42, r5: 83.6, r10: 100.0, mean_recall: 77.4 };
        let recalls = Recalls { text_to_image: recall, image_to_text: Recall::default() };
        let result = |name: &str| TaskResult {
            name: name.into(),
            dataset: "d".into(),
            recalls,
            images: 200,
            texts: 300,
            seconds: 1.25,
        };
        assert_eq!(
            table(&[result("m"), result("flickr")]),
            "TASK    DIRECTION       R@1    R@5   R@10     MR\n\
             m       text→image     58.4   83.6  100.0   77.4\n\
             m       image→text      0.0    0.0    0.0    0.0\n\
             flickr  text→image     58.4   83.6  100.0   77.4\n\
             flickr  image→text      0.0    0.0    0.0    0.0\n\
             m: 300 texts, 200 images, 1.2 s\n\
             flickr: 300 texts, 200 images, 1.2 s\n"
        );
    }
}
