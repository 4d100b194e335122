//! How similar a first answer must be to be told as one: the similarity from which on enough of them
//! are right. Searches for nothing.

use cnclip_crds::tasks::SimilarityThreshold;
use cnclip_crds::tasks::TaskConfig;

use super::retrieval::DirectionResult;
use crate::error::{Error, Result};
use cnclip_data::shard::Dataset;

/// What a task wants of a threshold, if it wants one.
///
/// # Errors
/// If it is no precision, or the data set says of no text which image it describes.
///
/// # Units
/// Percent
pub fn requested_precision(task: &TaskConfig, dataset: &Dataset) -> Result<Option<f64>> {
    let calibration = task
        .retrieval
        .as_ref()
        .and_then(|retrieval| retrieval.calibration);

    let Some(calibration) = calibration else {
        return Ok(None);
    };

    let name = &task.name;
    let wanted = calibration.precision_percent;
    if !(wanted > 0.0 && wanted <= 100.0) {
        return Err(Error::Config(format!(
            "calibration.precisionPercent of task {name} is {wanted}; it must be above 0 and at \
             most 100."
        )));
    }

    match dataset.index().pairs {
        0 => Err(Error::Data(format!(
            "Task {name} cannot be calibrated: {} says of no text which image it describes. Name a \
             data set with labels, or leave out calibration.",
            dataset.uri()
        ))),
        _ => Ok(Some(wanted)),
    }
}

/// The lowest similarity at which the first answers are right often enough; where none is, the one at
/// which they are right most often.
///
/// The estimate at a similarity is a plain ratio over the queries that have a right answer: those whose
/// first answer is right, of those whose first answer is at least so similar. Only similarities of first
/// answers are looked at, and equal ones stand or fall together. The ratio may fall where the similarity
/// rises; the lowest similarity that reaches it is taken, which answers most queries.
///
/// `None` if no query has a right answer.
///
/// # Units
/// `wanted` in percent
pub fn fit_threshold(found: &DirectionResult, wanted: f64) -> Option<SimilarityThreshold> {
    let mut firsts = top1_outcomes(found);
    firsts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let queries = firsts.len();
    let mut right = 0;
    let mut best = None::<SimilarityThreshold>;

    for (place, &(similarity, is_right)) in (1..).zip(&firsts) {
        right += usize::from(is_right);
        // One of equally similar answers cannot be told without the others.
        if firsts.get(place).is_some_and(|next| next.0 == similarity) {
            continue;
        }

        let share = |part: usize, of: usize| 100.0 * part as f64 / of as f64;
        let precision = share(right, place);
        let coverage = share(place, queries);
        let here = SimilarityThreshold {
            wanted,
            similarity: similarity.into(),
            precision,
            coverage,
        };

        let better = match best {
            None => true,
            Some(best) if best.is_reached() => here.is_reached(),
            Some(best) => here.is_reached() || precision >= best.precision,
        };

        best = if better { Some(here) } else { best };
    }

    best
}

/// The similarity of the first answer to each query that has a right one, and whether it is right.
fn top1_outcomes(found: &DirectionResult) -> Vec<(f32, bool)> {
    let queries = found.nearest.iter().zip(&found.relevant);
    let labelled = queries.filter(|(_, right)| !right.is_empty());
    let first = labelled.filter_map(|(nearest, right)| Some((nearest.first()?, right)));
    first
        .map(|(near, right)| (near.similarity, right.contains(&near.index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::search::Neighbor;

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
        // Nobody knows what would be right for this one.
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
