//! Softmax statistics of rows of logits in host memory, and their gradients.

use rayon::prelude::*;

use crate::math::{fast_exp, max_value, sum_map};

use super::{LogSums, LogitRowStats, MatchTargets};

impl LogitRowStats {
    fn from_logits(logits: &[f32], sample: usize, targets: &MatchTargets) -> Self {
        // Less the largest, so that no exponential overflows.
        let top = max_value(logits);
        let log_sum = top + sum_map(logits, |_, logit| fast_exp(logit - top)).ln();

        // Of equal logits the first is the nearest: a model that maps all to one point scores low.
        let nearest = logits
            .iter()
            .position(|&logit| logit == top)
            .unwrap_or_default();

        // In fp64: late in training the difference is small against both terms.
        let matching = targets
            .matching_samples(sample)
            .map(|other| f64::from(logits[other]))
            .sum::<f64>();

        let target_weight = f64::from(targets.target_weight(sample));
        Self {
            log_sum,
            cross_entropy: f64::from(log_sum) - matching * target_weight,
            is_hit: targets.is_match(sample, nearest),
        }
    }
}

/// Computes the statistics of each row, of which the first is that of sample `first`.
///
/// # Shapes
/// `logits` `[rows, global batch]`, `row_stats` `[rows]`.
pub(super) fn row_statistics(
    logits: &[f32],
    first: usize,
    global_batch: usize,
    targets: &MatchTargets,
    row_stats: &mut [LogitRowStats],
) {
    // In parallel over rows: each is summed by one thread, so results do not depend on how many there are.
    let samples = first..first + row_stats.len();
    row_stats
        .par_iter_mut()
        .zip(logits.par_chunks(global_batch))
        .zip(samples)
        .for_each(|((row, logits), sample)| {
            *row = LogitRowStats::from_logits(logits, sample, targets);
        });
}

/// Overwrites logits with their gradients, and writes each row's part of the gradient of the logit
/// scale's logarithm.
///
/// # Shapes
/// `logits` `[rows, global batch]`, `scale_gradients` `[rows]`.
pub(super) fn logits_to_gradients(
    logits: &mut [f32],
    first: usize,
    log_sums: LogSums<&[f32]>,
    targets: &MatchTargets,
    scale_gradients: &mut [f32],
) {
    let global_batch = log_sums.columns.len();
    // Half for each direction of the loss.
    let share = 0.5 / global_batch as f32;
    let samples = first..first + scale_gradients.len();
    scale_gradients
        .par_iter_mut()
        .zip(logits.par_chunks_mut(global_batch))
        .zip(samples)
        .for_each(|((scale_gradient, logits), sample)| {
            let row = log_sums.rows[sample];
            let columns = log_sums.columns;
            let expected =
                |other| share * (targets.target_weight(sample) + targets.target_weight(other));

            // The scale multiplies every logit, so its logarithm's gradient is Σ gradient · logit: taken
            // before the logits are overwritten.
            *scale_gradient = targets
                .matching_samples(sample)
                .map(|other| -expected(other) * logits[other])
                .sum();

            *scale_gradient += sum_map(logits, |i, x| {
                share * (fast_exp(x - row) + fast_exp(x - columns[i])) * x
            });

            // Softmax of the row and of the column, from the log-sums: no second pass for normalisation.
            for (logit, column) in logits.iter_mut().zip(columns) {
                *logit = share * (fast_exp(*logit - row) + fast_exp(*logit - column));
            }

            targets
                .matching_samples(sample)
                .for_each(|other| logits[other] -= expected(other));
        });
}
