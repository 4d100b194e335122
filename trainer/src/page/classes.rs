//! What a page shows of a zero-shot classification: accuracy by class, confusions, and misclassified images.
//! Scores nothing anew.

use std::collections::HashSet;

use serde::Serialize;

use super::confusion_matrix::ConfusionMatrix;
use super::thumbnail::thumbnail_data_uri;
use crate::error::Result;
use crate::evaluate::zero_shot::metrics::most_probable;
use crate::evaluate::zero_shot::{ClassifiedImage, ScoredZeroShot};
use cnclip_data::store::Store;

/// More classes than this are folded but for both ends.
const MAX_UNFOLDED_CLASSES: usize = 30;
/// Classes shown at each end then.
const MAX_CLASSES_PER_END: usize = 9;
/// More classes than this are no matrix that anyone could read.
const MAX_MATRIX_CLASSES: usize = 50;
/// Pairs of classes shown.
const MAX_CONFUSED_PAIRS: usize = 10;
/// Images shown that were mistaken.
const MAX_MISCLASSIFIED: usize = 12;

/// One class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassSummary {
    /// Its name.
    pub name: String,
    /// How many images it has.
    pub images: u64,
    /// How many of them are taken for it, in percent; none without images.
    pub right: Option<f64>,
}

/// A class and another that its images are taken for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ConfusedPair {
    /// What they are.
    pub class: String,
    /// What they are taken for.
    pub taken_for: String,
    /// How many.
    pub images: u64,
    /// How many of all that the class has, in percent.
    pub share: f64,
}

/// An image that was taken for something else.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MisclassifiedImage {
    /// The image as a `data:` URI; `None` if it cannot be shown.
    pub thumbnail: Option<String>,
    /// What it is.
    pub class: String,
    /// What it was taken for.
    pub taken_for: String,
    /// How probable the model finds that, in percent.
    pub probability: f32,
}

/// The classes of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassDetails {
    /// The best, best first; all of them if they are few.
    pub best: Vec<ClassSummary>,
    /// Those between.
    pub between: Vec<ClassSummary>,
    /// The worst, best of them first.
    pub worst: Vec<ClassSummary>,
    /// Which are taken for which, if they are few.
    pub(super) matrix: Option<ConfusionMatrix>,
    /// The pairs that are mistaken most often, the most often first.
    pub pairs: Vec<ConfusedPair>,
    /// Images that the model is surest of and wrong about.
    pub mistaken: Vec<MisclassifiedImage>,
}

impl ClassDetails {
    /// Those of a classification; its images are read again from the data set.
    ///
    /// # Errors
    /// If the store fails.
    pub fn from_scored(scored: &ScoredZeroShot, dataset: &Store) -> Result<Self> {
        let names = &scored.classes;
        let confusion = &scored.confusion;
        let mut best = rank_classes(names, confusion);
        let ends = if names.len() > MAX_UNFOLDED_CLASSES {
            MAX_CLASSES_PER_END
        } else {
            names.len()
        };

        let mut between = best.split_off(ends.min(best.len()));
        let worst = between.split_off(between.len().saturating_sub(MAX_CLASSES_PER_END));
        let mut mistaken = Vec::new();
        for guess in misclassified_images(&scored.images) {
            let file = dataset.get(&guess.image.file)?;
            mistaken.push(MisclassifiedImage {
                thumbnail: thumbnail_data_uri(&file),
                class: names[guess.image.class].clone(),
                taken_for: names[guess.taken_for].clone(),
                probability: 100.0 * guess.probability(),
            });
        }

        let has_matrix = names.len() <= MAX_MATRIX_CLASSES;
        let matrix = has_matrix.then(|| ConfusionMatrix::from_confusion(names, confusion));
        Ok(Self {
            best,
            between,
            worst,
            matrix,
            pairs: most_confused_pairs(names, confusion),
            mistaken,
        })
    }
}

/// The best first, those without images last.
fn rank_classes(names: &[String], confusion: &[Vec<u64>]) -> Vec<ClassSummary> {
    let mut classes = Vec::new();
    for (class, row) in confusion.iter().enumerate() {
        let images: u64 = row.iter().sum();
        let has_images = images > 0;
        classes.push(ClassSummary {
            name: names[class].clone(),
            images,
            right: has_images.then(|| percent_of(row[class], images)),
        });
    }

    // Classes without images have no accuracy and come last.
    let place = |class: &ClassSummary| class.right.unwrap_or(-1.0);
    classes.sort_by(|a, b| place(b).total_cmp(&place(a)));
    classes
}

fn most_confused_pairs(names: &[String], confusion: &[Vec<u64>]) -> Vec<ConfusedPair> {
    let mut pairs = Vec::new();
    for (class, row) in confusion.iter().enumerate() {
        let all: u64 = row.iter().sum();
        for (other, &images) in row.iter().enumerate() {
            if other != class && images > 0 {
                pairs.push(ConfusedPair {
                    class: names[class].clone(),
                    taken_for: names[other].clone(),
                    images,
                    share: percent_of(images, all),
                });
            }
        }
    }

    // Counts first: a share of a class with one image says little. The sort is stable.
    pairs.sort_by(|a, b| b.images.cmp(&a.images).then(b.share.total_cmp(&a.share)));
    pairs.truncate(MAX_CONFUSED_PAIRS);
    pairs
}

/// An image, and the class that it is taken for.
struct Guess<'a> {
    image: &'a ClassifiedImage,
    taken_for: usize,
}

impl Guess<'_> {
    fn probability(&self) -> f32 {
        self.image.probabilities[self.taken_for]
    }

    fn is_wrong(&self) -> bool {
        !self.image.labels.contains(&self.taken_for)
    }
}

/// The images that the model is surest of and wrong about: first one of each pair of classes.
fn misclassified_images(images: &[ClassifiedImage]) -> Vec<Guess<'_>> {
    let guesses = images.iter().map(|image| Guess {
        image,
        taken_for: most_probable(&image.probabilities),
    });

    let mut wrong: Vec<_> = guesses.filter(Guess::is_wrong).collect();
    wrong.sort_by(|a, b| b.probability().total_cmp(&a.probability()));

    // One image of each confusion first, so that a frequent one does not fill the list.
    let mut seen = HashSet::new();
    let is_new = |guess: &Guess<'_>| seen.insert((guess.image.class, guess.taken_for));
    let (mut first, more): (Vec<_>, Vec<_>) = wrong.into_iter().partition(is_new);
    first.extend(more);
    first.truncate(MAX_MISCLASSIFIED);

    first
}

fn percent_of(part: u64, of: u64) -> f64 {
    100.0 * part as f64 / of.max(1) as f64
}

#[cfg(test)]
mod tests;
