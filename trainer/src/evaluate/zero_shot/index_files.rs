//! Optional files of a data set: the order of a submission, and the labels of images with several classes.

use std::collections::HashMap;

use cnclip_data::json::{parse_json, strip_byte_order_mark};
use serde::Deserialize;

use super::class_folders::ClassImage;
use super::dataset_errors::DatasetErrors;

/// File with the order of a submission.
pub(super) const ORDER_FILE: &str = "index.json";
/// File with the labels of images with several classes.
pub(super) const LABELS_FILE: &str = "test_labels.jsonl";

/// One line of [`LABELS_FILE`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageLabelsLine {
    file: String,
    classes: Vec<usize>,
}

/// Parses the order of a submission: for each row, the index of its image.
pub(super) fn parse_order(
    bytes: &[u8],
    images: usize,
    mistakes: &mut DatasetErrors,
) -> Option<Vec<usize>> {
    let order: Vec<usize> = match parse_json(bytes) {
        Ok(order) => order,
        Err(error) => {
            mistakes.push_error(format!(
                "{ORDER_FILE} is not a JSON list of image indices: {error}."
            ));
            return None;
        }
    };

    // Must be a permutation: otherwise EvalAI scores rows against the labels of other images.
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..images) {
        mistakes.push_error(format!(
            "{ORDER_FILE} has {} numbers; it must have each of 0 to {} once, because there are {images} images.",
            order.len(),
            images.saturating_sub(1)
        ));
    }

    Some(order)
}

/// Parses the labels: for each image all its classes, including that of its folder.
pub(super) fn parse_labels<'a>(
    bytes: &[u8],
    files: &'a [ClassImage],
    classes: usize,
    mistakes: &mut DatasetErrors,
) -> Vec<Vec<usize>> {
    let place_of_file = |(place, file): (usize, &'a ClassImage)| (file.name.as_str(), place);
    let images = LabeledImages {
        files,
        places: files.iter().enumerate().map(place_of_file).collect(),
        classes,
    };

    let own_class = |file: &ClassImage| vec![file.class];
    let mut labels: Vec<_> = files.iter().map(own_class).collect();
    let mut seen = vec![false; files.len()];
    let mut faults = Vec::new();

    // Lossy, so that invalid UTF-8 is reported with the number of its line.
    let text = String::from_utf8_lossy(strip_byte_order_mark(bytes));

    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }

        let number = index + 1;
        match images.parse_line(line) {
            // Neither line is preferred: which of the two is right cannot be known.
            Ok(found) if seen[found.place] => {
                faults.push(format!("{number} (a file that an earlier line has)"));
            }
            Ok(found) => {
                seen[found.place] = true;
                labels[found.place] = found.classes;
            }
            Err(fault) => faults.push(format!("{number} ({fault})")),
        }
    }

    mistakes.push_with_examples(&faults, |lines| {
        format!(
            "{LABELS_FILE} cannot be used in line {lines}: each line must be such as {{\"file\": \
             \"test/003/a.jpg\", \"classes\": [3, 14]}}."
        )
    });

    labels
}

/// The images that lines of [`LABELS_FILE`] may name.
struct LabeledImages<'a> {
    files: &'a [ClassImage],
    /// The index of each file by its name.
    places: HashMap<&'a str, usize>,
    /// Number of classes.
    classes: usize,
}

/// All classes of the image at a place.
struct ImageClasses {
    place: usize,
    classes: Vec<usize>,
}

impl LabeledImages<'_> {
    fn parse_line(&self, line: &str) -> Result<ImageClasses, String> {
        let line: ImageLabelsLine =
            parse_json(line.as_bytes()).map_err(|error| error.to_string())?;

        let file = line.file;
        let name = file.strip_prefix("test/");
        let place = name.and_then(|name| self.places.get(name));
        let Some(&place) = place else {
            return Err(format!("there is no image {file}"));
        };

        let mut classes = line.classes;
        classes.sort_unstable();
        classes.dedup();

        if let Some(&last) = classes.last()
            && last >= self.classes
        {
            return Err(format!("there is no class {last}"));
        }

        // Accuracy counts the class of the folder, average precision the listed ones: they must agree.
        let own = self.files[place].class;
        if !classes.contains(&own) {
            return Err(format!("{own}, the class of its folder, is not listed"));
        }

        Ok(ImageClasses { place, classes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_every_picture_once() {
        let of = |text: &str| {
            let mut mistakes = DatasetErrors::default();
            (
                parse_order(text.as_bytes(), 3, &mut mistakes),
                mistakes.0.join(" "),
            )
        };

        for text in ["[2, 0, 1]", "\u{FEFF}[2, 0, 1]"] {
            assert_eq!(of(text), (Some(vec![2, 0, 1]), String::new()));
        }

        for text in ["[0, 1]", "[0, 1, 1]", "[1, 2, 3]"] {
            assert!(
                of(text).1.contains("must have each of 0 to 2 once"),
                "{text}"
            );
        }

        for text in ["{\"0\": 1}", "[-1, 0, 1]", "[0.5, 1, 2]", ""] {
            assert!(
                of(text).1.contains("not a JSON list of image indices"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_picture_can_have_more_classes_than_that_of_its_folder() {
        let file = |name: &str, class| ClassImage {
            name: name.into(),
            class,
        };

        let files = [file("0/a.jpg", 0), file("1/b.jpg", 1), file("1/c.jpg", 1)];
        let of = |text: &str| {
            let mut mistakes = DatasetErrors::default();
            (
                parse_labels(text.as_bytes(), &files, 3, &mut mistakes),
                mistakes.0.join(" "),
            )
        };

        let line = |file: &str, classes: &str| {
            format!("{{\"file\": \"{file}\", \"classes\": {classes}}}\r\n")
        };

        let with_mark = format!("\u{FEFF}{}", line("test/1/b.jpg", "[2, 1, 1]"));
        let (found, mistakes) = of(&with_mark);
        assert_eq!(
            (found, mistakes.as_str()),
            (vec![vec![0], vec![1, 2], vec![1]], "")
        );

        for (text, expected) in [
            (line("1/b.jpg", "[1]"), "there is no image 1/b.jpg"),
            (line("test/0/a.jpg", "[0, 3]"), "there is no class 3"),
            (
                line("test/0/a.jpg", "[1]"),
                "0, the class of its folder, is not listed",
            ),
            (
                line("test/0/a.jpg", "[]"),
                "0, the class of its folder, is not listed",
            ),
            (
                line("test/0/a.jpg", "[0]").repeat(2),
                "line 2 (a file that an earlier line has)",
            ),
            ("x".to_owned(), "line 1 (expected value"),
        ] {
            let (_, mistakes) = of(&text);
            assert!(mistakes.contains(expected), "{mistakes}");
        }
    }
}
