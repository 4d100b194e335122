//! Rows of pooled tokens on the CPU: a task for each sequence.

use super::{PooledRows, Sequences, TokenRows};

pub(super) fn gather_rows(sequences: Sequences<'_>, width: usize, all: &[f32], pooled: &mut [f32]) {
    let rows = (TokenRows(all, width), PooledRows(pooled, width));
    sequences.par_for_each(rows, |_, (all, pooled)| {
        pooled.0.copy_from_slice(&all.0[..pooled.0.len()]);
    });
}

pub(super) fn scatter_rows(
    sequences: Sequences<'_>,
    width: usize,
    pooled: &[f32],
    all: &mut [f32],
) {
    let rows = (PooledRows(pooled, width), TokenRows(all, width));
    sequences.par_for_each(rows, |_, (pooled, all)| {
        let (first, rest) = all.0.split_at_mut(pooled.0.len());
        first.copy_from_slice(pooled.0);
        rest.fill(0.0);
    });
}
