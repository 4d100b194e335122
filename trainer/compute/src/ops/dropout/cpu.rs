//! Dropout on the CPU: a task for each sample.

use super::Dropout;
use crate::math::add_in_place;
use crate::ops::sequences::{PooledRows, Sequences};

pub(super) fn mask_and_add(
    dropout: Dropout,
    sequences: Sequences<'_>,
    width: usize,
    y: &mut [f32],
    residual: &[f32],
) {
    let rows = (PooledRows(y, width), PooledRows(residual, width));
    sequences.par_for_each(rows, |sample, (y, residual)| {
        if dropout.is_active() {
            let mask = dropout.sample_mask(sample);
            for (i, (y, residual)) in y.0.iter_mut().zip(residual.0).enumerate() {
                *y = *y * mask.element_scale(i) + residual;
            }
        } else {
            add_in_place(y.0, residual.0);
        }
    });
}

pub(super) fn apply_mask(
    dropout: Dropout,
    sequences: Sequences<'_>,
    width: usize,
    x: &[f32],
    y: &mut [f32],
) {
    let rows = (PooledRows(x, width), PooledRows(y, width));
    sequences.par_for_each(rows, |sample, (x, y)| {
        if dropout.is_active() {
            dropout.sample_mask(sample).apply_to(0, x.0, y.0);
        } else {
            y.0.copy_from_slice(x.0);
        }
    });
}
