//! Rows of logits in this machine's memory.

use rayon::prelude::*;

use super::Targets;
use cnclip_compute::math::{exp, max, sum};

/// One row of logits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    /// ln Σ eˣ.
    pub(super) log_sum: f32,
    /// What it is away from that where it should be, on average.
    pub(super) cross_entropy: f64,
    /// Whether the nearest is right.
    pub(super) hit: bool,
}

impl Row {
    fn of(logits: &[f32], pair: usize, targets: &Targets) -> Self {
        let top = max(logits);
        let log_sum = top + sum(logits, |_, logit| exp(logit - top)).ln();
        // Of equal logits the first is the nearest: a model that maps all to one point scores low.
        let nearest = logits
            .iter()
            .position(|&logit| logit == top)
            .unwrap_or_default();

        let right = targets
            .of(pair)
            .map(|other| f64::from(logits[other]))
            .sum::<f64>();

        Self {
            log_sum,
            cross_entropy: f64::from(log_sum) - right * f64::from(targets.share(pair)),
            hit: targets.right(pair, nearest),
        }
    }
}

/// Finds what is to know of each row, of which the first is that of pair `first`.
///
/// # Shapes
/// `logits` [rows, pairs].
pub(super) fn look(
    logits: &[f32],
    (first, pairs): (usize, usize),
    targets: &Targets,
    found: &mut [Row],
) {
    let all = first..first + found.len();
    let rows = found.par_iter_mut().zip(logits.par_chunks(pairs)).zip(all);
    rows.for_each(|((row, logits), pair)| *row = Row::of(logits, pair, targets));
}

/// Logits become their gradients, given ln Σ eˣ of all rows and of all columns; each row's part of the
/// gradient of the logit scale is told.
///
/// # Shapes
/// `logits` [rows, pairs], both sums [pairs], `slopes` [rows].
pub(super) fn differentiate(
    logits: &mut [f32],
    first: usize,
    (rows, columns): (&[f32], &[f32]),
    targets: &Targets,
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
            let expected = |j| share * (targets.share(own) + targets.share(j));
            *slope = targets.of(own).map(|j| -expected(j) * logits[j]).sum();
            *slope += sum(logits, |i, x| {
                share * (exp(x - row) + exp(x - columns[i])) * x
            });

            for (logit, column) in logits.iter_mut().zip(columns) {
                *logit = share * (exp(*logit - row) + exp(*logit - column));
            }

            targets.of(own).for_each(|j| logits[j] -= expected(j));
        });
}
