//! Calibration of the similarity threshold of a retrieval: the lowest similarity at which the nearest images
//! reach a requested precision.

use cnclip_crds::tasks::{RetrievalConfig, SimilarityThreshold};

use super::retrieval::DirectionResult;
use crate::error::{Error, Result};
use cnclip_data::shard::Dataset;

/// The precision that a task requests, if it requests a calibration.
///
/// # Errors
/// If it is not a percentage, or the data set has no labels.
///
/// # Units
/// Percent
pub fn requested_precision(
    name: &str,
    config: &RetrievalConfig,
    dataset: &Dataset,
) -> Result<Option<f64>> {
    let Some(calibration) = config.calibration else {
        return Ok(None);
    };

    let wanted = calibration.precision_percent;
    // Negated, so that NaN is refused too.
    if !(wanted > 0.0 && wanted <= 100.0) {
        return Err(Error::Config(format!(
            "calibration.precisionPercent of task {name} is {wanted}; it must be above 0 and at \
             most 100."
        )));
    }

    // The index counts the labels, so that this fails before anything is encoded.
    match dataset.index().pairs {
        0 => Err(Error::Data(format!(
            "Task {name} cannot be calibrated: {} has no labels (no text says which image it describes). \
             Use a data set with labels, or leave out calibration.",
            dataset.uri()
        ))),
        _ => Ok(Some(wanted)),
    }
}

/// Fits the similarity threshold: the lowest similarity whose precision is at least `wanted`, or the one of
/// the highest precision where none reaches it. `None` if no query has labels.
///
/// The precision at a threshold is estimated over the queries with labels: of those whose nearest candidate
/// is at least that similar, the share for which it is relevant. Candidate thresholds are the similarities of
/// the nearest candidates; equal ones are taken together.
///
/// # Units
/// `wanted` in percent
pub fn fit_threshold(found: &DirectionResult, wanted: f64) -> Option<SimilarityThreshold> {
    let mut outcomes = top1_outcomes(found);
    // Descending: a prefix of the list is what a threshold accepts.
    outcomes.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
    let queries = outcomes.len();
    let mut correct = 0;
    let mut best = None::<SimilarityThreshold>;

    for (count, outcome) in (1..).zip(&outcomes) {
        correct += usize::from(outcome.is_correct);

        // A threshold cannot separate equal similarities: only the last of them is a candidate.
        let next = outcomes.get(count);
        if next.is_some_and(|next| next.similarity == outcome.similarity) {
            continue;
        }

        let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole as f64;
        let precision = percent(correct, count);
        let coverage = percent(count, queries);
        let here = SimilarityThreshold {
            wanted,
            similarity: outcome.similarity.into(),
            precision,
            coverage,
        };

        // Precision is not monotonic in the threshold. Similarities fall in this loop, so the last one that
        // reaches the precision is the lowest, which has the highest coverage.
        let better = match best {
            None => true,
            Some(best) if best.is_reached() => here.is_reached(),
            // Not reached so far: of equal precisions, the later threshold covers more queries.
            Some(best) => here.is_reached() || precision >= best.precision,
        };

        best = if better { Some(here) } else { best };
    }

    best
}

/// The nearest candidate of one query.
struct Top1Outcome {
    similarity: f32,
    is_correct: bool,
}

/// The outcomes of the queries with labels: of the others nobody knows whether they are correct.
fn top1_outcomes(found: &DirectionResult) -> Vec<Top1Outcome> {
    let queries = found.nearest.iter().zip(&found.relevant);
    let labeled = queries.filter(|(_, relevant)| !relevant.is_empty());

    labeled
        .filter_map(|(nearest, relevant)| {
            let first = nearest.first()?;
            Some(Top1Outcome {
                similarity: first.similarity,
                is_correct: relevant.contains(&first.index),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnclip_compute::nearest_neighbors::Neighbor;

    /// A query for each similarity; the right answer is candidate 0.
    fn direction(answers: &[(f32, bool)]) -> DirectionResult {
        let near = |&(similarity, right): &(f32, bool)| {
            vec![Neighbor {
                index: usize::from(!right),
                similarity,
            }]
        };

        let mut nearest: Vec<_> = answers.iter().map(near).collect();
        let mut relevant = vec![vec![0]; answers.len()];
        // The right answer for this one is unknown.
        nearest.push(vec![Neighbor {
            index: 0,
            similarity: 2.0,
        }]);

        relevant.push(vec![]);
        DirectionResult {
            recall: None,
            nearest,
            relevant,
            unanswerable: 1,
        }
    }

    #[test]
    fn the_lowest_similarity_that_is_right_often_enough_is_taken() {
        let answers = [
            (0.9, true),
            (0.8, false),
            (0.7, true),
            (0.6, true),
            (0.5, false),
            (0.4, true),
        ];

        // From the top: 100, 50, 66.7, 75, 60 and 66.7 %.
        for (wanted, similarity, precision, coverage) in [
            (100.0, 0.9, 100.0, 1.0 / 6.0),
            (75.0, 0.6, 75.0, 4.0 / 6.0),
            (66.0, 0.4, 400.0 / 6.0, 1.0),
            (1.0, 0.4, 400.0 / 6.0, 1.0),
        ] {
            let found = fit_threshold(&direction(&answers), wanted).unwrap();
            assert_eq!(found.similarity as f32, similarity, "{wanted}");
            assert!(
                (found.precision - precision).abs() < 1e-9,
                "{wanted}: {}",
                found.precision
            );
            assert!((found.coverage - 100.0 * coverage).abs() < 1e-9, "{wanted}");
            assert!(found.is_reached());
        }
    }

    #[test]
    fn equally_similar_answers_stand_or_fall_together() {
        let answers = [(0.9, true), (0.9, false), (0.5, true)];
        let found = fit_threshold(&direction(&answers), 60.0).unwrap();
        assert_eq!((found.similarity as f32, found.is_reached()), (0.5, true));
        let found = fit_threshold(&direction(&answers), 90.0).unwrap();
        assert_eq!(
            (found.similarity as f32, found.is_reached()),
            (0.5, false),
            "at best 66.7 %"
        );
    }

    #[test]
    fn a_precision_that_is_never_reached_gives_the_best_there_is() {
        let answers = [(0.9, false), (0.8, true), (0.7, true), (0.6, false)];
        let found = fit_threshold(&direction(&answers), 90.0).unwrap();
        assert_eq!((found.similarity as f32, found.is_reached()), (0.7, false));
        assert!((found.precision - 200.0 / 3.0).abs() < 1e-9);
        assert_eq!(
            fit_threshold(&direction(&[]), 90.0),
            None,
            "no query has a right answer"
        );
    }
}
