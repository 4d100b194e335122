//! Layer normalization on the CPU.

use rayon::prelude::*;

use super::{LayerNorm, MOMENTS_PER_ROW};
use crate::gemm::Accumulate;
use crate::math::sum_map;

/// Rows that a task takes at least: fewer would cost more in scheduling than in arithmetic.
const MIN_ROWS_PER_TASK: usize = 8;

/// Rows and what they were normalized with.
#[derive(Clone, Copy)]
pub(super) struct NormalizedRows<'a> {
    x: &'a [f32],
    moments: &'a [[f32; MOMENTS_PER_ROW]],
}

impl<'a> NormalizedRows<'a> {
    pub(super) fn new(x: &'a [f32], moments: &'a [f32]) -> Self {
        Self {
            x,
            moments: moments.as_chunks::<MOMENTS_PER_ROW>().0,
        }
    }
}

impl LayerNorm {
    pub(super) fn forward_host(
        &self,
        scale: &[f32],
        x: &[f32],
        y: &mut [f32],
        moments: &mut [f32],
    ) {
        let width = self.width;
        let count = self.width as f32;
        let (weight, bias) = scale.split_at(width);
        let moments = moments.as_chunks_mut::<MOMENTS_PER_ROW>().0;
        let rows = y
            .par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .zip(moments);

        rows.with_min_len(MIN_ROWS_PER_TASK)
            .for_each(|((y, x), moments)| {
                // Two passes: the mean of squares minus the square of the mean would cancel digits.
                let mean = sum_map(x, |_, v| v) / count;
                let variance = sum_map(x, |_, v| (v - mean) * (v - mean)) / count;
                let inverse_std = 1.0 / (variance + self.epsilon).sqrt();
                *moments = [mean, inverse_std];

                for i in 0..width {
                    y[i] = (x[i] - mean) * inverse_std * weight[i] + bias[i];
                }
            });
    }

    pub(super) fn backward_input_host(
        &self,
        scale: &[f32],
        rows: NormalizedRows<'_>,
        dy: &[f32],
        dx: &mut [f32],
        accumulate: Accumulate,
    ) {
        let width = self.width;
        let count = self.width as f32;
        let weight = &scale[..width];
        let slices = dx
            .par_chunks_mut(width)
            .zip(rows.x.par_chunks(width))
            .zip(dy.par_chunks(width));

        slices
            .zip(rows.moments)
            .with_min_len(MIN_ROWS_PER_TASK)
            .for_each(|(((dx, x), dy), &[mean, inverse_std])| {
                // Mean and variance depend on every element of the row: what `dy` has in common with
                // either is taken out again.
                let mean_gradient = sum_map(dy, |i, v| v * weight[i]) / count;
                let unit_gradient =
                    sum_map(dy, |i, v| v * weight[i] * (x[i] - mean)) * inverse_std / count;
                for i in 0..width {
                    let unit = (x[i] - mean) * inverse_std;
                    let gradient =
                        inverse_std * (dy[i] * weight[i] - mean_gradient - unit * unit_gradient);
                    dx[i] = if accumulate == Accumulate::Yes {
                        dx[i] + gradient
                    } else {
                        gradient
                    };
                }
            });
    }

    pub(super) fn backward_weights_host(
        &self,
        gradients: &mut [f32],
        rows: NormalizedRows<'_>,
        dy: &[f32],
    ) {
        /// Columns that one thread sums: two cache lines.
        const COLUMNS: usize = 32;
        let width = self.width;
        let (weight, bias) = gradients.split_at_mut(width);
        // Threads share out columns, not rows: each sum is made by one thread in the order of the rows,
        // so it does not depend on how many threads there are.
        let columns = weight
            .par_chunks_mut(COLUMNS)
            .zip(bias.par_chunks_mut(COLUMNS));

        columns.enumerate().for_each(|(chunk, (weight, bias))| {
            let part = chunk * COLUMNS..chunk * COLUMNS + weight.len();
            let slices = rows
                .x
                .chunks_exact(width)
                .zip(dy.chunks_exact(width))
                .zip(rows.moments);

            for ((x, dy), [mean, inverse_std]) in slices {
                let x = &x[part.clone()];
                let dy = &dy[part.clone()];
                for i in 0..weight.len() {
                    weight[i] += dy[i] * (x[i] - mean) * inverse_std;
                    bias[i] += dy[i];
                }
            }
        });
    }
}
