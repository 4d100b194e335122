//! Batch normalisation: each channel to mean 0 and variance 1 over all places of all pictures, then
//! scaled and shifted; over rows of channels, with a rectifier behind it where the tower has one.

mod sums;

use rayon::prelude::*;

use super::matrix::Onto;
use crate::params::{Init, Layout, Weight};
pub use sums::Sums;
use sums::{Memory, repeat, span};

/// PyTorch's default.
const EPSILON: f32 = 1e-5;

/// How much of a batch's statistics goes into the running ones: PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// Numbers that one thread takes at a time.
const CHUNK: usize = 1 << 13;

/// What follows the normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// Negative values become zero.
    Rectify,
}

/// `y = (x - mean) / sqrt(variance + 1e-5) · weight + bias`, channel by channel.
///
/// # Shapes
/// `x`, `y` [rows, width]; `weight`, `bias` and the running statistics [width].
#[derive(Clone, Debug)]
pub struct BatchNorm {
    weight: Weight,
    bias: Weight,
    running_mean: Weight,
    running_variance: Weight,
    batches: Weight,
    width: usize,
}

/// What each channel was normalised with, the channels repeated to one span.
#[derive(Debug)]
pub struct Moments {
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
    pub fn new(width: usize) -> Self {
        let array = || vec![0.0; span(width)];
        Self { mean: array(), sharpness: array(), factor: array(), offset: array(), rows: 0.0 }
    }
}

impl BatchNorm {
    /// Declares `<name>.weight` and `<name>.bias`, and the running statistics.
    pub fn declare(
        layout: &mut Layout,
        name: &str,
        width: usize,
        weight: Init,
        sums: &mut Sums,
    ) -> Self {
        sums.fit(width);
        let name = |part: &str| format!("{name}.{part}");
        Self {
            weight: layout.weight(&name("weight"), &[width], weight),
            bias: layout.weight(&name("bias"), &[width], Init::Zeros),
            running_mean: layout.state(&name("running_mean"), &[width], Init::Zeros),
            running_variance: layout.state(&name("running_var"), &[width], Init::Ones),
            batches: layout.state(&name("num_batches_tracked"), &[], Init::Zeros),
            width,
        }
    }

    /// Takes the statistics of the batch, and lets the running ones follow.
    pub fn measure(
        &self,
        values: &[f32],
        state: &mut [f32],
        x: &[f32],
        (moments, sums): (&mut Moments, &mut Sums),
    ) {
        let (width, Moments { mean, sharpness, rows, .. }) = (self.width, &mut *moments);
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
            follow(&mut self.running_variance.of_mut(state)[i], variances[i] * unbiased);
            variances[i] = 1.0 / (variances[i] + EPSILON).sqrt();
        }
        self.batches.of_mut(state)[0] += 1.0;
        self.prepare(values, moments);
    }

    /// Takes the running statistics.
    pub fn recall(&self, values: &[f32], state: &[f32], moments: &mut Moments) {
        moments.mean[..self.width].copy_from_slice(self.running_mean.of(state));
        let variances = self.running_variance.of(state);
        for (sharpness, variance) in moments.sharpness.iter_mut().zip(variances) {
            *sharpness = 1.0 / (variance + EPSILON).sqrt();
        }
        self.prepare(values, moments);
    }

    fn prepare(&self, values: &[f32], moments: &mut Moments) {
        let Moments { mean, sharpness, factor, offset, .. } = moments;
        let (weight, bias) = (self.weight.of(values), self.bias.of(values));
        for i in 0..self.width {
            factor[i] = sharpness[i] * weight[i];
            offset[i] = bias[i] - mean[i] * factor[i];
        }
        for array in [mean, sharpness, factor, offset] {
            repeat(array, self.width);
        }
    }

    /// Writes `y`, or adds to it, before the rectifier.
    pub fn apply(&self, moments: &Moments, x: &[f32], y: &mut [f32], onto: Onto, then: Then) {
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
        y.par_chunks_mut(self.chunk()).zip(x.par_chunks(self.chunk())).for_each(|(y, x)| {
            for (y, x) in y.chunks_mut(factor.len()).zip(x.chunks(factor.len())) {
                let line = factor.iter().zip(offset);
                for ((y, x), (factor, offset)) in y.iter_mut().zip(x).zip(line) {
                    *y = f(*y, x.mul_add(*factor, *offset));
                }
            }
        });
    }

    /// Adds to the gradients of the weights; `dy` becomes `dx`. What was added to `y` is not known
    /// here, so a rectifier behind an addition is the caller's.
    pub fn backward(
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
        let (sum, along, Moments { mean, factor, offset, .. }) = (&*sum, &*along, moments);
        dy.par_chunks_mut(self.chunk()).zip(x.par_chunks(self.chunk())).for_each(|(dy, x)| {
            for (dy, x) in dy.chunks_mut(sum.len()).zip(x.chunks(sum.len())) {
                let line = factor.iter().zip(offset).zip(mean.iter().zip(sum.iter().zip(along)));
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
        let Moments { mean, factor, offset, .. } = moments;
        memory.over((dy.len(), self.width), |range, sum, along| {
            let spans = x[range.clone()].chunks(mean.len()).zip(dy[range].chunks(mean.len()));
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
