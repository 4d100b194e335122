//! Batch normalization on the CPU.
//!
//! The numbers of a channel are repeated to a span of whole rows: loops over rows of few channels would be
//! too short for vector code.

use rayon::prelude::*;

use super::workspace::{BatchNormWorkspace, PartialSums, repeat_channels, span_len};
use super::{BatchNorm, EPSILON, MOMENTUM, PostActivation};
use crate::gemm::Accumulate;

/// Elements that one thread takes at a time.
const CHUNK_LEN: usize = 1 << 13;

/// What each channel was normalized with, the channels repeated to one span.
#[derive(Debug)]
pub(super) struct HostMoments {
    mean: Vec<f32>,
    /// One over the standard deviation.
    inv_std: Vec<f32>,
    /// `y = x · factor + offset`.
    factor: Vec<f32>,
    offset: Vec<f32>,
    /// Rows that the statistics are of: an f64, as those of all ranks may be many.
    rows: f64,
}

impl HostMoments {
    /// Memory for `width` channels.
    pub(super) fn new(width: usize) -> Self {
        let array = || vec![0.0; span_len(width)];
        Self {
            mean: array(),
            inv_std: array(),
            factor: array(),
            offset: array(),
            rows: 0.0,
        }
    }
}

impl BatchNorm {
    pub(super) fn compute_batch_stats_host(
        &self,
        values: &[f32],
        state: &mut [f32],
        x: &[f32],
        moments: &mut HostMoments,
        sums: &mut BatchNormWorkspace,
    ) {
        let width = self.width;
        let HostMoments {
            mean,
            inv_std,
            rows,
            ..
        } = &mut *moments;

        // Sums are of distances from one sample of the channel: a mean that is large beside the deviation
        // costs the variance no digits.
        mean[..width].copy_from_slice(&x[..width]);
        repeat_channels(mean, width);
        let origin = &*mean;
        let [sum, squares] =
            sums.partial_sums
                .sum_over_rows(x.len(), width, |range, sum, squares| {
                    for x in x[range].chunks(origin.len()) {
                        let sums = sum.iter_mut().zip(squares.iter_mut());
                        for ((sum, squares), (x, origin)) in sums.zip(x.iter().zip(origin)) {
                            let distance = x - origin;
                            *sum += distance;
                            *squares = distance.mul_add(distance, *squares);
                        }
                    }
                });

        let count = (x.len() / width) as f32;
        // Variances until the running ones have followed, then one over the deviations.
        let variances = &mut inv_std[..width];
        for i in 0..width {
            let distance = sum[i] / count;
            // Rounding may leave a small negative number, whose square root would be NaN.
            variances[i] = (squares[i] / count - distance * distance).max(0.0);
            mean[i] += distance;
        }

        *rows = sums.all_reduce_moments(f64::from(count), &mut mean[..width], variances);
        // PyTorch normalizes with the biased variance, but keeps the unbiased one.
        // One row has no unbiased variance: the divisor is at least 1.
        let unbiased = (*rows / (*rows - 1.0).max(1.0)) as f32;
        let follow = |running: &mut f32, now: f32| *running += MOMENTUM * (now - *running);

        for i in 0..width {
            follow(&mut self.running_mean.slice_of_mut(state)[i], mean[i]);
            follow(
                &mut self.running_variance.slice_of_mut(state)[i],
                variances[i] * unbiased,
            );

            variances[i] = 1.0 / (variances[i] + EPSILON).sqrt();
        }

        // An integer in the reference, an fp32 here: exact for up to 2²⁴ batches.
        self.num_batches_tracked.slice_of_mut(state)[0] += 1.0;
        self.compute_affine(values, moments);
    }

    pub(super) fn load_running_stats_host(
        &self,
        values: &[f32],
        state: &[f32],
        moments: &mut HostMoments,
    ) {
        moments.mean[..self.width].copy_from_slice(self.running_mean.slice_of(state));
        let variances = self.running_variance.slice_of(state);
        for (inv_std, variance) in moments.inv_std.iter_mut().zip(variances) {
            *inv_std = 1.0 / (variance + EPSILON).sqrt();
        }

        self.compute_affine(values, moments);
    }

    fn compute_affine(&self, values: &[f32], moments: &mut HostMoments) {
        let HostMoments {
            mean,
            inv_std,
            factor,
            offset,
            ..
        } = moments;

        let weight = self.weight.slice_of(values);
        let bias = self.bias.slice_of(values);
        for i in 0..self.width {
            factor[i] = inv_std[i] * weight[i];
            offset[i] = bias[i] - mean[i] * factor[i];
        }

        for array in [mean, inv_std, factor, offset] {
            repeat_channels(array, self.width);
        }
    }

    pub(super) fn apply_normalization_host(
        &self,
        moments: &HostMoments,
        x: &[f32],
        y: &mut [f32],
        accumulate: Accumulate,
        activation: PostActivation,
    ) {
        // A loop for each case: a branch inside of it would cost more than the arithmetic.
        match (accumulate, activation) {
            (Accumulate::No, PostActivation::Identity) => {
                self.zip_rows_parallel(moments, x, y, |_, v| v)
            }
            (Accumulate::No, PostActivation::Relu) => {
                self.zip_rows_parallel(moments, x, y, |_, v| v.max(0.0))
            }
            (Accumulate::Yes, PostActivation::Identity) => {
                self.zip_rows_parallel(moments, x, y, |y, v| y + v)
            }
            (Accumulate::Yes, PostActivation::Relu) => {
                self.zip_rows_parallel(moments, x, y, |y, v| (y + v).max(0.0))
            }
        }
    }

    fn zip_rows_parallel(
        &self,
        moments: &HostMoments,
        x: &[f32],
        y: &mut [f32],
        f: impl Fn(f32, f32) -> f32 + Sync,
    ) {
        let HostMoments { factor, offset, .. } = moments;
        y.par_chunks_mut(self.chunk_len())
            .zip(x.par_chunks(self.chunk_len()))
            .for_each(|(y, x)| {
                for (y, x) in y.chunks_mut(factor.len()).zip(x.chunks(factor.len())) {
                    let line = factor.iter().zip(offset);
                    for ((y, x), (factor, offset)) in y.iter_mut().zip(x).zip(line) {
                        *y = f(*y, x.mul_add(*factor, *offset));
                    }
                }
            });
    }

    pub(super) fn backward_host(
        &self,
        gradients: &mut [f32],
        x: &[f32],
        moments: &HostMoments,
        sums: &mut BatchNormWorkspace,
        dy: &mut [f32],
        activation: PostActivation,
    ) {
        match activation {
            PostActivation::Identity => {
                self.backward_with_gate(gradients, x, moments, sums, dy, |_, dy| dy)
            }
            PostActivation::Relu => {
                let gate = |y: f32, dy: f32| if y > 0.0 { dy } else { 0.0 };
                self.backward_with_gate(gradients, x, moments, sums, dy, gate);
            }
        }
    }

    /// `gate(y, dy)` is the gradient before the activation, whose input `y` is computed again.
    fn backward_with_gate(
        &self,
        gradients: &mut [f32],
        x: &[f32],
        moments: &HostMoments,
        sums: &mut BatchNormWorkspace,
        dy: &mut [f32],
        gate: impl Fn(f32, f32) -> f32 + Sync,
    ) {
        let [sum, along] = self.gradient_sums(x, moments, &mut sums.partial_sums, dy, &gate);
        for i in 0..self.width {
            self.weight.slice_of_mut(gradients)[i] += along[i] * moments.inv_std[i];
            self.bias.slice_of_mut(gradients)[i] += sum[i];
        }

        // After the gradients of weight and bias, which are summed over ranks with all others: `dx` needs
        // the sums over the rows that the statistics are of.
        sums.all_reduce_sums(self.width);
        let [sum, along] = sums.partial_sums.last_sums(self.width);
        let count = moments.rows as f32;

        for i in 0..self.width {
            let weight = along[i] * moments.inv_std[i];
            along[i] = moments.factor[i] * moments.inv_std[i] * weight / count;
            sum[i] *= moments.factor[i] / count;
        }

        repeat_channels(sum, self.width);
        repeat_channels(along, self.width);
        let sum = &*sum;
        let along = &*along;
        let HostMoments {
            mean,
            factor,
            offset,
            ..
        } = moments;

        dy.par_chunks_mut(self.chunk_len())
            .zip(x.par_chunks(self.chunk_len()))
            .for_each(|(dy, x)| {
                for (dy, x) in dy.chunks_mut(sum.len()).zip(x.chunks(sum.len())) {
                    let line = factor
                        .iter()
                        .zip(offset)
                        .zip(mean.iter().zip(sum.iter().zip(along)));

                    for ((dy, x), ((factor, offset), (mean, (sum, along)))) in
                        dy.iter_mut().zip(x).zip(line)
                    {
                        let through = gate(x.mul_add(*factor, *offset), *dy) * factor;
                        *dy = through - sum - along * (x - mean);
                    }
                }
            });
    }

    /// For each channel the sums of `dy` and of `dy · (x - mean)`.
    fn gradient_sums<'a>(
        &self,
        x: &[f32],
        moments: &HostMoments,
        memory: &'a mut PartialSums,
        dy: &[f32],
        gate: &(impl Fn(f32, f32) -> f32 + Sync),
    ) -> [&'a mut [f32]; 2] {
        let HostMoments {
            mean,
            factor,
            offset,
            ..
        } = moments;

        memory.sum_over_rows(dy.len(), self.width, |range, sum, along| {
            let spans = x[range.clone()]
                .chunks(mean.len())
                .zip(dy[range].chunks(mean.len()));

            for (x, dy) in spans {
                let line = mean.iter().zip(factor.iter().zip(offset));
                let sums = sum.iter_mut().zip(along.iter_mut());
                let pairs = x.iter().zip(dy);
                for ((x, dy), ((sum, along), (mean, (factor, offset)))) in pairs.zip(sums.zip(line))
                {
                    let dy = gate(x.mul_add(*factor, *offset), *dy);
                    *sum += dy;
                    *along = dy.mul_add(x - mean, *along);
                }
            }
        })
    }

    /// Whole spans that one thread takes at a time.
    fn chunk_len(&self) -> usize {
        CHUNK_LEN.next_multiple_of(span_len(self.width))
    }
}
