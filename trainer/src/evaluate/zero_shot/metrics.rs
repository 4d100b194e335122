//! What probabilities of classes are worth, once the right classes are known. Knows no picture.

/// Probabilities of every class, one picture after the other, and what is right.
#[derive(Clone, Copy, Debug)]
pub struct ClassPredictions<'a> {
    /// # Shapes
    /// `[pictures, classes]`
    pub probabilities: &'a [f32],
    /// How many classes there are.
    pub classes: usize,
    /// The class of each picture.
    pub labels: &'a [usize],
}

impl ClassPredictions<'_> {
    fn labeled_rows(&self) -> impl Iterator<Item = (&[f32], usize)> {
        self.probabilities
            .chunks_exact(self.classes.max(1))
            .zip(self.labels.iter().copied())
    }

    /// The share of pictures whose class is among the `k` most probable.
    ///
    /// # Guarantees
    /// Of equally probable classes the earlier one counts as more probable.
    pub fn top_k_accuracy(&self, k: usize) -> f64 {
        let hits = self
            .labeled_rows()
            .filter(|&(row, right)| class_rank(row, right) < k)
            .count();

        hits as f64 / self.labels.len().max(1) as f64
    }

    /// For each class, how often its pictures were taken for each.
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

/// The class of the largest number; the earlier one of equals.
pub fn most_probable(row: &[f32]) -> usize {
    (1..row.len()).fold(
        0,
        |best, class| if row[class] > row[best] { class } else { best },
    )
}

/// How many classes are more probable than one.
fn class_rank(row: &[f32], class: usize) -> usize {
    let own = row[class];
    let before = row[..class].iter().filter(|&&other| other >= own).count();
    before
        + row[class + 1..]
            .iter()
            .filter(|&&other| other > own)
            .count()
}

/// The share of each class's pictures that are taken for it; `None` for a class without any.
pub fn per_class_accuracy(confusion: &[Vec<u64>]) -> Vec<Option<f64>> {
    let share = |(class, row): (usize, &Vec<u64>)| {
        let all: u64 = row.iter().sum();
        (all > 0).then(|| row[class] as f64 / all as f64)
    };

    confusion.iter().enumerate().map(share).collect()
}

/// The mean of what there is.
pub fn mean_of_known(values: &[Option<f64>]) -> f64 {
    let count = values.iter().flatten().count();
    values.iter().flatten().sum::<f64>() / count.max(1) as f64
}

/// Area under the receiver operating characteristic: how probable it is that a right picture scores
/// more than a wrong one, an equal score being worth half. `None` if all are right or all are wrong.
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
        // Those that score less than a miss of this group are the hits that come later.
        area += misses as f64 * (seen as f64 + hits as f64 / 2.0);
        seen += hits;
    }

    Some(area / (positives as f64 * negatives as f64))
}

/// Average precision, interpolated at the eleven recalls 0, 0.1 … 1: at each the best precision at
/// that recall or a higher one. `None` if nothing is right.
///
/// # Source
/// vision-evaluation's `MeanAveragePrecisionNPointsEvaluator` with 11 points, which ELEVATER scores
/// with. Equal scores are one point of the curve, and the curve has the point of precision 1 at recall 0.
pub fn average_precision(scores: &[f32], right: &[bool]) -> Option<f64> {
    let positives = count_positives(right);
    if positives == 0 {
        return None;
    }

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

    // The very numbers of numpy's linspace(1, 0, 11): 0.7 less than 1 is not 0.3 in binary.
    let recalls = (0..=10).map(|tenth| {
        if tenth == 10 {
            0.0
        } else {
            1.0 - f64::from(tenth) * 0.1
        }
    });

    Some(recalls.map(best).sum::<f64>() / 11.0)
}

/// Places from the highest score down.
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
