//! The symmetric contrastive loss over a global batch, and its gradients for one worker's share.

mod targets;

use std::ops::Range;

use rayon::prelude::*;

use crate::ops::math::{exp, max, sum};
use crate::ops::matrix::{Matrix, MatrixMut, Onto, Threads, product};
pub use targets::{Fingerprint, Targets};

/// What a step is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Mean of both cross-entropies over the global batch.
    pub loss: f64,
    /// Share of pictures whose nearest caption of the batch is right.
    pub image_to_text: f64,
    /// Share of captions whose nearest picture of the batch is right.
    pub text_to_image: f64,
    /// This worker's part of the gradient of the logit scale's logarithm: the parts add up.
    pub logit_scale_gradient: f64,
}

/// `(CE(scale · I · Tᵀ) + CE(scale · T · Iᵀ)) / 2`, where the targets of a row are what is right for it,
/// in equal shares.
#[derive(Debug)]
pub struct ContrastiveLoss {
    /// What is right for what in the batch that comes next: each pair for itself, until it is told.
    pub targets: Targets,
    width: usize,
    logits: Vec<f32>,
    rows: Vec<Softmax>,
    columns: Vec<Softmax>,
    /// The logit scale's gradient, row by row.
    slopes: Vec<f32>,
    image_gradient: Vec<f32>,
    text_gradient: Vec<f32>,
}

/// One row or column of logits: ln Σ eˣ, and where the largest is.
#[derive(Clone, Copy, Debug, Default)]
struct Softmax {
    log_sum: f32,
    nearest: usize,
}

impl ContrastiveLoss {
    /// Memory for a global batch of so many pairs of features.
    pub fn new(global_batch: usize, width: usize) -> Self {
        let features = || vec![0.0; global_batch * width];
        Self {
            targets: Targets::new(global_batch),
            width,
            logits: vec![0.0; global_batch * global_batch],
            rows: vec![Softmax::default(); global_batch],
            columns: vec![Softmax::default(); global_batch],
            slopes: vec![0.0; global_batch],
            image_gradient: features(),
            text_gradient: features(),
        }
    }

    /// The loss of a global batch of unit features, and the gradients of the features in `local`.
    ///
    /// # Shapes
    /// `images`, `texts` [global batch, width].
    pub fn evaluate(
        &mut self,
        (images, texts): (&[f32], &[f32]),
        logit_scale: f32,
        local: Range<usize>,
    ) -> Score {
        let pairs = images.len() / self.width;
        self.compare((images, texts), logit_scale);
        let mut score = self.score(pairs);
        self.differentiate(pairs);
        score.logit_scale_gradient = self.slopes[local.clone()].iter().map(|&s| f64::from(s)).sum();
        self.backward((images, texts), logit_scale, local);
        score
    }

    /// The gradients of the unit features in `local`, of pictures and of captions.
    pub fn gradients(&self, local: Range<usize>) -> (&[f32], &[f32]) {
        let part = local.start * self.width..local.end * self.width;
        (&self.image_gradient[part.clone()], &self.text_gradient[part])
    }

    /// The gradients of the unit features in `local`, of pictures alone, to be added to.
    pub fn image_gradients(&mut self, local: Range<usize>) -> &mut [f32] {
        &mut self.image_gradient[local.start * self.width..local.end * self.width]
    }

    /// Fills the logits, and what is to know of their rows and columns.
    fn compare(&mut self, (images, texts): (&[f32], &[f32]), logit_scale: f32) {
        let pairs = images.len() / self.width;
        let logits = &mut self.logits[..pairs * pairs];
        let sides = (Matrix::new(images, self.width), Matrix::new(texts, self.width).transposed());
        let target = MatrixMut::new(logits, pairs);
        product(target, Onto::Replace, logit_scale, sides, Threads::All);
        let logits = &*logits;
        let rows = self.rows[..pairs].par_iter_mut().zip(logits.par_chunks(pairs));
        rows.for_each(|(row, logits)| *row = Softmax::of_row(logits));
        let columns = self.columns[..pairs].par_chunks_mut(COLUMNS).enumerate();
        columns.for_each(|(chunk, columns)| {
            Softmax::of_columns(logits, pairs, chunk * COLUMNS, columns);
        });
    }

    fn score(&self, pairs: usize) -> Score {
        let (targets, logits) = (&self.targets, &self.logits[..pairs * pairs]);
        let mean = |i, logit: &dyn Fn(usize) -> f32| {
            let right = targets.of(i).map(|j| f64::from(logit(j))).sum::<f64>();
            right * f64::from(targets.share(i))
        };
        let cross_entropy = |sides: &[Softmax], logit: &dyn Fn(usize, usize) -> f32| -> f64 {
            let sides = sides.iter().enumerate();
            sides.map(|(i, side)| f64::from(side.log_sum) - mean(i, &|j| logit(i, j))).sum()
        };
        let hits = |sides: &[Softmax]| {
            sides.iter().enumerate().filter(|(i, side)| targets.right(*i, side.nearest)).count()
                as f64
        };
        let (rows, columns, count) = (&self.rows[..pairs], &self.columns[..pairs], pairs as f64);
        let both = cross_entropy(rows, &|i, j| logits[i * pairs + j])
            + cross_entropy(columns, &|i, j| logits[j * pairs + i]);
        Score {
            loss: both / (2.0 * count),
            image_to_text: hits(rows) / count,
            text_to_image: hits(columns) / count,
            logit_scale_gradient: 0.0,
        }
    }

    /// The logits become their gradients, and each row's part of the logit scale's gradient is kept.
    fn differentiate(&mut self, pairs: usize) {
        let (rows, columns) = (&self.rows[..pairs], &self.columns[..pairs]);
        let targets = &self.targets;
        let share = 0.5 / pairs as f32;
        let slopes = self.slopes[..pairs].par_iter_mut();
        let logits = self.logits[..pairs * pairs].par_chunks_mut(pairs);
        slopes.zip(logits).enumerate().for_each(|(own, (slope, logits))| {
            let row = rows[own].log_sum;
            // What both directions expect of a right pair.
            let expected = |j| share * (targets.share(own) + targets.share(j));
            *slope = targets.of(own).map(|j| -expected(j) * logits[j]).sum();
            *slope += sum(logits, |i, x| share * (exp(x - row) + exp(x - columns[i].log_sum)) * x);
            for (logit, column) in logits.iter_mut().zip(columns) {
                *logit = share * (exp(*logit - row) + exp(*logit - column.log_sum));
            }
            targets.of(own).for_each(|j| logits[j] -= expected(j));
        });
    }

    /// From the gradients of the logits to those of the local features.
    fn backward(&mut self, (images, texts): (&[f32], &[f32]), scale: f32, local: Range<usize>) {
        let (width, pairs) = (self.width, images.len() / self.width);
        let (images, texts) = (Matrix::new(images, width), Matrix::new(texts, width));
        let part = local.start * width..local.end * width;
        let rows = Matrix::new(&self.logits[local.start * pairs..local.end * pairs], pairs);
        let target = MatrixMut::new(&mut self.image_gradient[part.clone()], width);
        product(target, Onto::Replace, scale, (rows, texts), Threads::All);
        let logits = &self.logits[local.start..pairs * pairs];
        let columns = Matrix::strided(logits, pairs, local.len(), pairs).transposed();
        let target = MatrixMut::new(&mut self.text_gradient[part], width);
        product(target, Onto::Replace, scale, (columns, images), Threads::All);
    }
}

/// Columns that one thread reads at a time: two cache lines.
const COLUMNS: usize = 32;

impl Softmax {
    fn of_row(logits: &[f32]) -> Self {
        let top = max(logits);
        let log_sum = top + sum(logits, |_, logit| exp(logit - top)).ln();
        // Of equal logits the first is the nearest: a model that maps all to one point scores low.
        let nearest = logits.iter().position(|&logit| logit == top);
        Self { log_sum, nearest: nearest.unwrap_or_default() }
    }

    /// Neighbouring columns, the first of which is `first`.
    fn of_columns(logits: &[f32], pairs: usize, first: usize, columns: &mut [Self]) {
        let part = first..first + columns.len();
        let (mut top, mut nearest) = ([f32::MIN; COLUMNS], [0; COLUMNS]);
        for (row, logits) in logits.chunks_exact(pairs).enumerate() {
            for (i, &logit) in logits[part.clone()].iter().enumerate() {
                if logit > top[i] {
                    (top[i], nearest[i]) = (logit, row);
                }
            }
        }
        let mut sums = [0f32; COLUMNS];
        for logits in logits.chunks_exact(pairs) {
            for (i, &logit) in logits[part.clone()].iter().enumerate() {
                sums[i] += exp(logit - top[i]);
            }
        }
        for (i, column) in columns.iter_mut().enumerate() {
            *column = Self { log_sum: top[i] + sums[i].ln(), nearest: nearest[i] };
        }
    }
}

#[cfg(test)]
mod tests;
