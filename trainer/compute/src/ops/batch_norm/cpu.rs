//! Batch normalisation in this machine's memory.

use rayon::prelude::*;

use super::sums::{Memory, Sums, repeat, span};
use super::{BatchNorm, EPSILON, MOMENTUM, Then};
use crate::gemm::Onto;

/// Numbers that one thread takes at a time.
const CHUNK: usize = 1 << 13;

/// What each channel was normalised with, the channels repeated to one span.
#[derive(Debug)]
pub(super) struct Moments {
    mean: Vec<f32>,
    /// One over the standard deviation.
    sharpness: Vec<f32>,
    /// `y = x · factor + offset`.
    factor: Vec<f32>,
    offset: Vec<f32>,
    /// Rows that they were taken from.
    rows: f64,
}

impl Moments {
    /// Memory for so many channels.
    pub(super) fn new(width: usize) -> Self {
        let array = || vec![0.0; span(width)];
        Self {
            mean: array(),
            sharpness: array(),
            factor: array(),
            offset: array(),
            rows: 0.0,
        }
    }
}

impl BatchNorm {
    pub(super) fn measure_host(
        &self,
        values: &[f32],
        state: &mut [f32],
        x: &[f32],
        (moments, sums): (&mut Moments, &mut Sums),
    ) {
        let width = self.width;
        let Moments {
            mean,
            sharpness,
            rows,
            ..
        } = &mut *moments;

        // Taken from a sample of the channel, a large mean costs the variance no digits.
        mean[..width].copy_from_slice(&x[..width]);
        repeat(mean, width);
        let origin = &*mean;
        let [sum, squares] = sums.memory.over((x.len(), width), |range, sum, squares| {
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
        let variances = &mut sharpness[..width];
        for i in 0..width {
            let distance = sum[i] / count;
            variances[i] = (squares[i] / count - distance * distance).max(0.0);
            mean[i] += distance;
        }

        *rows = sums.join_moments(f64::from(count), &mut mean[..width], variances);
        let unbiased = (*rows / (*rows - 1.0).max(1.0)) as f32;
        let follow = |running: &mut f32, now: f32| *running += MOMENTUM * (now - *running);

        for i in 0..width {
            follow(&mut self.running_mean.of_mut(state)[i], mean[i]);
            follow(
                &mut self.running_variance.of_mut(state)[i],
                variances[i] * unbiased,
            );

            variances[i] = 1.0 / (variances[i] + EPSILON).sqrt();
        }

        self.batches.of_mut(state)[0] += 1.0;
        self.prepare(values, moments);
    }

    pub(super) fn recall_host(&self, values: &[f32], state: &[f32], moments: &mut Moments) {
        moments.mean[..self.width].copy_from_slice(self.running_mean.of(state));
        let variances = self.running_variance.of(state);
        for (sharpness, variance) in moments.sharpness.iter_mut().zip(variances) {
            *sharpness = 1.0 / (variance + EPSILON).sqrt();
        }

        self.prepare(values, moments);
    }

    fn prepare(&self, values: &[f32], moments: &mut Moments) {
        let Moments {
            mean,
            sharpness,
            factor,
            offset,
            ..
        } = moments;

        let weight = self.weight.of(values);
        let bias = self.bias.of(values);
        for i in 0..self.width {
            factor[i] = sharpness[i] * weight[i];
            offset[i] = bias[i] - mean[i] * factor[i];
        }

        for array in [mean, sharpness, factor, offset] {
            repeat(array, self.width);
        }
    }

    pub(super) fn apply_host(
        &self,
        moments: &Moments,
        x: &[f32],
        y: &mut [f32],
        onto: Onto,
        then: Then,
    ) {
        match (onto, then) {
            (Onto::Replace, Then::Nothing) => self.each(moments, x, y, |_, v| v),
            (Onto::Replace, Then::Rectify) => self.each(moments, x, y, |_, v| v.max(0.0)),
            (Onto::Add, Then::Nothing) => self.each(moments, x, y, |y, v| y + v),
            (Onto::Add, Then::Rectify) => self.each(moments, x, y, |y, v| (y + v).max(0.0)),
        }
    }

    fn each(
        &self,
        moments: &Moments,
        x: &[f32],
        y: &mut [f32],
        f: impl Fn(f32, f32) -> f32 + Sync,
    ) {
        let Moments { factor, offset, .. } = moments;
        y.par_chunks_mut(self.chunk())
            .zip(x.par_chunks(self.chunk()))
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
        (x, moments, sums): (&[f32], &Moments, &mut Sums),
        dy: &mut [f32],
        then: Then,
    ) {
        match then {
            Then::Nothing => self.backward_through(gradients, (x, moments, sums), dy, |_, dy| dy),
            Then::Rectify => {
                let gate = |y: f32, dy: f32| if y > 0.0 { dy } else { 0.0 };
                self.backward_through(gradients, (x, moments, sums), dy, gate);
            }
        }
    }

    fn backward_through(
        &self,
        gradients: &mut [f32],
        (x, moments, sums): (&[f32], &Moments, &mut Sums),
        dy: &mut [f32],
        gate: impl Fn(f32, f32) -> f32 + Sync,
    ) {
        let [sum, along] = self.slopes((x, moments, &mut sums.memory), dy, &gate);
        for i in 0..self.width {
            self.weight.of_mut(gradients)[i] += along[i] * moments.sharpness[i];
            self.bias.of_mut(gradients)[i] += sum[i];
        }

        sums.join(self.width);
        let [sum, along] = sums.memory.sums(self.width);
        let count = moments.rows as f32;

        for i in 0..self.width {
            let weight = along[i] * moments.sharpness[i];
            along[i] = moments.factor[i] * moments.sharpness[i] * weight / count;
            sum[i] *= moments.factor[i] / count;
        }

        repeat(sum, self.width);
        repeat(along, self.width);
        let sum = &*sum;
        let along = &*along;
        let Moments {
            mean,
            factor,
            offset,
            ..
        } = moments;

        dy.par_chunks_mut(self.chunk())
            .zip(x.par_chunks(self.chunk()))
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
    fn slopes<'a>(
        &self,
        (x, moments, memory): (&[f32], &Moments, &'a mut Memory),
        dy: &[f32],
        gate: &(impl Fn(f32, f32) -> f32 + Sync),
    ) -> [&'a mut [f32]; 2] {
        let Moments {
            mean,
            factor,
            offset,
            ..
        } = moments;

        memory.over((dy.len(), self.width), |range, sum, along| {
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
    fn chunk(&self) -> usize {
        CHUNK.next_multiple_of(span(self.width))
    }
}
