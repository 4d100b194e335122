//! Classification metrics of ELEVATER, from class probabilities and labels.

/// Class probabilities of images, and their labels.
///
/// # Examples
/// ```
/// use cnclip::evaluate::zero_shot::metrics::ClassPredictions;
///
/// let predictions = ClassPredictions {
///     probabilities: &[0.7, 0.2, 0.1, 0.5, 0.3, 0.2],
///     classes: 3,
///     labels: &[0, 1],
/// };
///
/// assert_eq!(predictions.top_k_accuracy(1), 0.5);
/// assert_eq!(predictions.top_k_accuracy(2), 1.0);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ClassPredictions<'a> {
    /// Probability of each class for each image.
    ///
    /// # Shapes
    /// `[images, classes]`
    pub probabilities: &'a [f32],
    /// Number of classes.
    pub classes: usize,
    /// The class of each image.
    pub labels: &'a [usize],
}

impl ClassPredictions<'_> {
    fn labeled_rows(&self) -> impl Iterator<Item = (&[f32], usize)> {
        self.probabilities
            .chunks_exact(self.classes.max(1))
            .zip(self.labels.iter().copied())
    }

    /// The share of images whose class is among the `k` most probable.
    ///
    /// # Guarantees
    /// Ties are ranked in the order of the classes.
    pub fn top_k_accuracy(&self, k: usize) -> f64 {
        let hits = self
            .labeled_rows()
            .filter(|&(row, right)| class_rank(row, right) < k)
            .count();

        // 0 without images, rather than NaN, which JSON cannot represent.
        hits as f64 / self.labels.len().max(1) as f64
    }

    /// Confusion matrix: images by their own class (row) and their predicted class (column).
    ///
    /// # Shapes
    /// `[classes, classes]`
    pub fn confusion_matrix(&self) -> Vec<Vec<u64>> {
        let mut confusion = vec![vec![0; self.classes]; self.classes];
        for (row, right) in self.labeled_rows() {
            confusion[right][most_probable(row)] += 1;
        }

        confusion
    }

    /// The probabilities of one class.
    pub fn class_probabilities(&self, class: usize) -> Vec<f32> {
        self.labeled_rows().map(|(row, _)| row[class]).collect()
    }
}

/// The class with the highest value; the first of equals.
pub fn most_probable(row: &[f32]) -> usize {
    (1..row.len()).fold(
        0,
        |best, class| if row[class] > row[best] { class } else { best },
    )
}

/// Rank of a class, from 0.
fn class_rank(row: &[f32], class: usize) -> usize {
    // Equal probabilities before `class` rank above it and those after it below, as a stable sort ranks them.
    let own = row[class];
    let before = row[..class].iter();
    let after = row[class + 1..].iter();

    let above = before.filter(|&&other| other >= own).count();
    above + after.filter(|&&other| other > own).count()
}

/// Accuracy of each class; `None` for a class without images.
pub fn per_class_accuracy(confusion: &[Vec<u64>]) -> Vec<Option<f64>> {
    let mut accuracies = Vec::new();
    for (class, row) in confusion.iter().enumerate() {
        let all: u64 = row.iter().sum();
        let right = row[class];
        accuracies.push((all > 0).then(|| right as f64 / all as f64));
    }

    accuracies
}

/// Mean over the classes that have a value: ELEVATER leaves out classes without test images.
pub fn mean_of_known(values: &[Option<f64>]) -> f64 {
    let known = values.iter().flatten();
    let count = known.clone().count();
    known.sum::<f64>() / count.max(1) as f64
}

/// Area under the receiver operating characteristic: the probability that a positive scores higher than a
/// negative, with ties counting half. `None` without positives or without negatives.
pub fn roc_auc(scores: &[f32], right: &[bool]) -> Option<f64> {
    let order = argsort_descending(scores);
    let positives = count_positives(right);
    let negatives = right.len() - positives;

    if positives == 0 || negatives == 0 {
        return None;
    }

    let mut seen = 0;
    let mut area = 0.0;
    for ties in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let hits = ties.iter().filter(|&&place| right[place]).count();
        let misses = ties.len() - hits;
        // Positives seen before score higher than the negatives of this tie; those within it count half.
        area += misses as f64 * (seen as f64 + hits as f64 / 2.0);
        seen += hits;
    }

    Some(area / (positives as f64 * negatives as f64))
}

/// 11-point interpolated average precision: the mean over the recalls 0, 0.1 … 1 of the highest precision at
/// that recall or a higher one. `None` without positives.
///
/// # Source
/// vision-evaluation's `MeanAveragePrecisionNPointsEvaluator` with 11 points, which ELEVATER scores
/// with. Equal scores are one point of the curve, and the curve has the point of precision 1 at recall 0.
pub fn average_precision(scores: &[f32], right: &[bool]) -> Option<f64> {
    let positives = count_positives(right);
    if positives == 0 {
        return None;
    }

    // Points of the precision-recall curve as (precision, recall), from the highest score down.
    let mut curve = vec![(1.0, 0.0)];
    let mut hits = 0;
    let mut seen = 0;

    for ties in argsort_descending(scores).chunk_by(|&a, &b| scores[a] == scores[b]) {
        hits += ties.iter().filter(|&&place| right[place]).count();
        seen += ties.len();
        curve.push((hits as f64 / seen as f64, hits as f64 / positives as f64));
    }

    let best = |least: f64| {
        let reached = curve.iter().filter(|&&(_, recall)| recall >= least);
        reached.map(|&(precision, _)| precision).fold(0.0, f64::max)
    };

    // Exactly the floats of numpy's linspace(1, 0, 11), because recalls are compared with `>=`: 1 − 0.7 is not
    // 0.3 in binary, and a point can fall on the other side.
    let recalls = (0..=10).map(|tenth| {
        if tenth == 10 {
            0.0
        } else {
            1.0 - f64::from(tenth) * 0.1
        }
    });

    Some(recalls.map(best).sum::<f64>() / 11.0)
}

/// Indices in descending order of score.
fn argsort_descending(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<_> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

fn count_positives(right: &[bool]) -> usize {
    right.iter().filter(|&&right| right).count()
}

#[cfg(test)]
mod tests;
