//! Rows of logits in this machine's memory.

use rayon::prelude::*;

use super::MatchTargets;
use cnclip_compute::math::{fast_exp, max_value, sum_map};

/// One row of logits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogitRowStats {
    /// ln Σ eˣ.
    pub(super) log_sum: f32,
    /// What it is away from that where it should be, on average.
    pub(super) cross_entropy: f64,
    /// Whether the nearest is right.
    pub(super) is_hit: bool,
}

impl LogitRowStats {
    fn from_logits(logits: &[f32], pair: usize, targets: &MatchTargets) -> Self {
        let top = max_value(logits);
        let log_sum = top + sum_map(logits, |_, logit| fast_exp(logit - top)).ln();
        // Of equal logits the first is the nearest: a model that maps all to one point scores low.
        let nearest = logits
            .iter()
            .position(|&logit| logit == top)
            .unwrap_or_default();

        let right = targets
            .matching_samples(pair)
            .map(|other| f64::from(logits[other]))
            .sum::<f64>();

        Self {
            log_sum,
            cross_entropy: f64::from(log_sum) - right * f64::from(targets.target_weight(pair)),
            is_hit: targets.is_match(pair, nearest),
        }
    }
}

/// Finds what is to know of each row, of which the first is that of pair `first`.
///
/// # Shapes
/// `logits` [rows, pairs].
pub(super) fn compute_row_stats(
    logits: &[f32],
    (first, pairs): (usize, usize),
    targets: &MatchTargets,
    found: &mut [LogitRowStats],
) {
    let all = first..first + found.len();
    let rows = found.par_iter_mut().zip(logits.par_chunks(pairs)).zip(all);
    rows.for_each(|((row, logits), pair)| *row = LogitRowStats::from_logits(logits, pair, targets));
}

/// Logits become their gradients, given ln Σ eˣ of all rows and of all columns; each row's part of the
/// gradient of the logit scale is told.
///
/// # Shapes
/// `logits` [rows, pairs], both sums [pairs], `slopes` [rows].
pub(super) fn logits_to_gradients(
    logits: &mut [f32],
    first: usize,
    (rows, columns): (&[f32], &[f32]),
    targets: &MatchTargets,
    slopes: &mut [f32],
) {
    let pairs = columns.len();
    let share = 0.5 / pairs as f32;
    let all = first..first + slopes.len();
    slopes
        .par_iter_mut()
        .zip(logits.par_chunks_mut(pairs))
        .zip(all)
        .for_each(|((slope, logits), own)| {
            let row = rows[own];
            // What both directions expect of a right pair.
            let expected = |j| share * (targets.target_weight(own) + targets.target_weight(j));
            *slope = targets
                .matching_samples(own)
                .map(|j| -expected(j) * logits[j])
                .sum();
            *slope += sum_map(logits, |i, x| {
                share * (fast_exp(x - row) + fast_exp(x - columns[i])) * x
            });

            for (logit, column) in logits.iter_mut().zip(columns) {
                *logit = share * (fast_exp(*logit - row) + fast_exp(*logit - column));
            }

            targets
                .matching_samples(own)
                .for_each(|j| logits[j] -= expected(j));
        });
}
