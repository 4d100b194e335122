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

/// Spans that are summed before their sum is added to others: keeps the digits of long sums.
const BLOCK: usize = 64;

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
}

impl Moments {
    /// Memory for so many channels.
    pub fn new(width: usize) -> Self {
        let array = || vec![0.0; span(width)];
        Self { mean: array(), sharpness: array(), factor: array(), offset: array() }
    }
}

/// Whole rows that loops take as one: the processor is slow on short ones.
fn span(width: usize) -> usize {
    const ENOUGH: usize = 256;
    width * (ENOUGH / width).max(1)
}

/// Repeats what the first channels hold.
fn repeat(array: &mut [f32], width: usize) {
    for start in (width..array.len()).step_by(width) {
        array.copy_within(..width, start);
    }
}

/// Memory that sums over rows borrow in turn.
#[derive(Debug, Default)]
pub struct Sums(Vec<f32>);

impl Sums {
    /// Grows to what so many channels need.
    fn fit(&mut self, width: usize) {
        self.0.resize(self.0.len().max(PARTS * 4 * span(width)), 0.0);
    }

    /// The sums of two numbers for each channel over an array of rows: `add` adds those of a range of
    /// the array to two arrays of one span.
    fn over(
        &mut self,
        (length, width): (usize, usize),
        add: impl Fn(Range<usize>, &mut [f32], &mut [f32]) + Sync,
    ) -> (&mut [f32], &mut [f32]) {
        let span = span(width);
        let share = length.div_ceil(PARTS).next_multiple_of(span);
        let parts = &mut self.0[..PARTS * 4 * span];
        parts.par_chunks_mut(4 * span).enumerate().for_each(|(part, memory)| {
            let (total, block) = memory.split_at_mut(2 * span);
            total.fill(0.0);
            let end = length.min((part + 1) * share);
            for start in (part * share..end).step_by(BLOCK * span) {
                block.fill(0.0);
                let (first, second) = block.split_at_mut(span);
                add(start..end.min(start + BLOCK * span), first, second);
                total.iter_mut().zip(&*block).for_each(|(total, sum)| *total += sum);
            }
        });
        let (total, others) = parts.split_at_mut(4 * span);
        for other in others.chunks_exact(4 * span) {
            total[..2 * span].iter_mut().zip(other).for_each(|(total, sum)| *total += sum);
        }
        let (first, second) = total[..2 * span].split_at_mut(span);
        for sums in [&mut *first, &mut *second] {
            let (sums, others) = sums.split_at_mut(width);
            for other in others.chunks_exact(width) {
                sums.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
            }
        }
        (first, second)
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
        let (width, Moments { mean, sharpness, .. }) = (self.width, &mut *moments);
        // Taken from a sample of the channel, a large mean costs the variance no digits.
        mean[..width].copy_from_slice(&x[..width]);
        repeat(mean, width);
        let origin = &*mean;
        let (sum, squares) = sums.over((x.len(), width), |range, sum, squares| {
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
        let unbiased = count / (count - 1.0).max(1.0);
        let follow = |running: &mut f32, now: f32| *running += MOMENTUM * (now - *running);
        for i in 0..width {
            let distance = sum[i] / count;
            let variance = (squares[i] / count - distance * distance).max(0.0);
            mean[i] += distance;
            sharpness[i] = 1.0 / (variance + EPSILON).sqrt();
            follow(&mut self.running_mean.of_mut(state)[i], mean[i]);
            follow(&mut self.running_variance.of_mut(state)[i], variance * unbiased);
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
        let Moments { mean, sharpness, factor, offset } = moments;
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
        let (sum, along) = self.slopes((x, moments, sums), dy, &gate);
        let count = (dy.len() / self.width) as f32;
        for i in 0..self.width {
            let weight = along[i] * moments.sharpness[i];
            self.weight.of_mut(gradients)[i] += weight;
            self.bias.of_mut(gradients)[i] += sum[i];
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
        (x, moments, sums): (&[f32], &Moments, &'a mut Sums),
        dy: &[f32],
        gate: &(impl Fn(f32, f32) -> f32 + Sync),
    ) -> (&'a mut [f32], &'a mut [f32]) {
        let Moments { mean, factor, offset, .. } = moments;
        sums.over((dy.len(), self.width), |range, sum, along| {
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
