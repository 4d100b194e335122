//! Average pooling on the CPU: a task for each row of output pixels.

use rayon::prelude::*;

use super::AveragePool;
use crate::gemm::Accumulate;

pub(super) fn forward(pool: AveragePool, x: &[f32], y: &mut [f32]) {
    let row_len = pool.side * pool.channels;
    let channels = pool.channels;
    y.par_chunks_mut(row_len / 2)
        .zip(x.par_chunks(2 * row_len))
        .for_each(|(y, x)| {
            let (upper, lower) = x.split_at(row_len);
            let squares = upper
                .chunks_exact(2 * channels)
                .zip(lower.chunks_exact(2 * channels));

            for (y, (upper, lower)) in y.chunks_exact_mut(channels).zip(squares) {
                for i in 0..channels {
                    // Added in pairs as the kernel does, so that both round alike.
                    let sum = (upper[i] + upper[channels + i]) + (lower[i] + lower[channels + i]);
                    y[i] = 0.25 * sum;
                }
            }
        });
}

pub(super) fn backward(pool: AveragePool, dy: &[f32], dx: &mut [f32], accumulate: Accumulate) {
    match accumulate {
        Accumulate::No => scatter_gradient(pool, dy, dx, |_, part| part),
        Accumulate::Yes => scatter_gradient(pool, dy, dx, |old, part| old + part),
    }
}

/// `dx = combine(dx, dy / 4)`.
fn scatter_gradient(
    pool: AveragePool,
    dy: &[f32],
    dx: &mut [f32],
    combine: impl Fn(f32, f32) -> f32 + Sync,
) {
    let row_len = pool.side * pool.channels;
    let channels = pool.channels;
    let row_pairs = dx.par_chunks_mut(2 * row_len);

    row_pairs
        .zip(dy.par_chunks(row_len / 2))
        .for_each(|(dx, dy)| {
            for dx in dx.chunks_exact_mut(row_len) {
                let pixel_pairs = dx.chunks_exact_mut(2 * channels);
                for (dx, dy) in pixel_pairs.zip(dy.chunks_exact(channels)) {
                    let (left, right) = dx.split_at_mut(channels);
                    for i in 0..channels {
                        let part = 0.25 * dy[i];
                        left[i] = combine(left[i], part);
                        right[i] = combine(right[i], part);
                    }
                }
            }
        });
}
