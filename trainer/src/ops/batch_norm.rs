//! Batch normalisation: each channel to mean 0 and variance 1 over all places of all pictures, then
//! scaled and shifted; over rows of channels, with a rectifier behind it where the tower has one.

use std::ops::Range;

use rayon::prelude::*;

use super::matrix::Onto;
use crate::params::{Init, Layout, Weight};

/// PyTorch's default.
const EPSILON: f32 = 1e-5;

/// How much of a batch's statistics goes into the running ones: PyTorch's default.
const MOMENTUM: f32 = 0.1;

/// Parts that rows are summed in; fixed, so that sums do not depend on the number of threads.
const PARTS: usize = 32;

/// Rows that are summed before their sum is added to others: keeps the digits of long sums.
const BLOCK: usize = 128;

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

/// What each channel was normalised with.
#[derive(Debug)]
pub struct Moments {
    mean: Vec<f32>,
    /// One over the standard deviation.
    sharpness: Vec<f32>,
    /// `y = x · factor + offset`.
    factor: Vec<f32>,
    offset: Vec<f32>,
}

impl Moments {
    /// Memory for so many channels.
    pub fn new(width: usize) -> Self {
        let array = || vec![0.0; width];
        Self { mean: array(), sharpness: array(), factor: array(), offset: array() }
    }
}

/// Memory that sums over rows borrow in turn.
#[derive(Debug, Default)]
pub struct Sums(Vec<f32>);

impl Sums {
    /// Grows to what so many channels need.
    fn fit(&mut self, width: usize) {
        self.0.resize(self.0.len().max(PARTS * 4 * width), 0.0);
    }

    /// The sums of two numbers for each of `width` channels over so many rows: `add` adds those of a
    /// range of rows to its two arrays.
    fn over(
        &mut self,
        (rows, width): (usize, usize),
        add: impl Fn(Range<usize>, &mut [f32], &mut [f32]) + Sync,
    ) -> (&mut [f32], &mut [f32]) {
        let share = rows.div_ceil(PARTS);
        let parts = &mut self.0[..PARTS * 4 * width];
        parts.par_chunks_mut(4 * width).enumerate().for_each(|(part, memory)| {
            let (total, block) = memory.split_at_mut(2 * width);
            total.fill(0.0);
            let end = rows.min((part + 1) * share);
            for start in (part * share..end).step_by(BLOCK) {
                block.fill(0.0);
                let (first, second) = block.split_at_mut(width);
                add(start..end.min(start + BLOCK), first, second);
                total.iter_mut().zip(&*block).for_each(|(total, sum)| *total += sum);
            }
        });
        let (total, others) = parts.split_at_mut(4 * width);
        for other in others.chunks_exact(4 * width) {
            total[..2 * width].iter_mut().zip(other).for_each(|(total, sum)| *total += sum);
        }
        total[..2 * width].split_at_mut(width)
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
        let (width, rows) = (self.width, x.len() / self.width);
        // Taken from a sample of the channel, a large mean costs the variance no digits.
        let origin = &x[..width];
        let (sum, squares) = sums.over((rows, width), |range, sum, squares| {
            for row in x[range.start * width..range.end * width].chunks_exact(width) {
                for i in 0..width {
                    let distance = row[i] - origin[i];
                    sum[i] += distance;
                    squares[i] += distance * distance;
                }
            }
        });
        let count = rows as f32;
        let unbiased = count / (count - 1.0).max(1.0);
        let follow = |running: &mut f32, now: f32| *running += MOMENTUM * (now - *running);
        for i in 0..width {
            let mean = sum[i] / count;
            let variance = (squares[i] / count - mean * mean).max(0.0);
            moments.mean[i] = origin[i] + mean;
            moments.sharpness[i] = 1.0 / (variance + EPSILON).sqrt();
            follow(&mut self.running_mean.of_mut(state)[i], moments.mean[i]);
            follow(&mut self.running_variance.of_mut(state)[i], variance * unbiased);
        }
        self.batches.of_mut(state)[0] += 1.0;
        self.prepare(values, moments);
    }

    /// Takes the running statistics.
    pub fn recall(&self, values: &[f32], state: &[f32], moments: &mut Moments) {
        moments.mean.copy_from_slice(self.running_mean.of(state));
        let variances = self.running_variance.of(state);
        for (sharpness, variance) in moments.sharpness.iter_mut().zip(variances) {
            *sharpness = 1.0 / (variance + EPSILON).sqrt();
        }
        self.prepare(values, moments);
    }

    fn prepare(&self, values: &[f32], moments: &mut Moments) {
        let Moments { mean, sharpness, factor, offset } = moments;
        let (weight, bias) = (self.weight.of(values), self.bias.of(values));
        for i in 0..self.width {
            factor[i] = sharpness[i] * weight[i];
            offset[i] = bias[i] - mean[i] * factor[i];
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
        let (width, chunk) = (self.width, self.chunk());
        let (factor, offset) = (&moments.factor[..width], &moments.offset[..width]);
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                for i in 0..width {
                    y[i] = f(y[i], x[i].mul_add(factor[i], offset[i]));
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
        let (width, chunk) = (self.width, self.chunk());
        let (factor, offset) = (&moments.factor[..width], &moments.offset[..width]);
        let (mean, sharpness) = (&moments.mean[..width], &moments.sharpness[..width]);
        let rows = dy.len() / width;
        let (sum, along) = sums.over((rows, width), |range, sum, along| {
            let part = range.start * width..range.end * width;
            let pairs = x[part.clone()].chunks_exact(width).zip(dy[part].chunks_exact(width));
            for (x, dy) in pairs {
                for i in 0..width {
                    let dy = gate(x[i].mul_add(factor[i], offset[i]), dy[i]);
                    sum[i] += dy;
                    along[i] += dy * (x[i] - mean[i]);
                }
            }
        });
        let count = rows as f32;
        for i in 0..width {
            let weight = along[i] * sharpness[i];
            self.weight.of_mut(gradients)[i] += weight;
            self.bias.of_mut(gradients)[i] += sum[i];
            along[i] = factor[i] * sharpness[i] * weight / count;
            sum[i] *= factor[i] / count;
        }
        let (sum, along) = (&*sum, &*along);
        dy.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(dy, x)| {
            for (dy, x) in dy.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                for i in 0..width {
                    let through = factor[i] * gate(x[i].mul_add(factor[i], offset[i]), dy[i]);
                    dy[i] = through - sum[i] - along[i] * (x[i] - mean[i]);
                }
            }
        });
    }

    /// Whole rows that one thread takes at a time.
    fn chunk(&self) -> usize {
        CHUNK.div_ceil(self.width) * self.width
    }
}
