//! The symmetric contrastive loss over a global batch, and its gradients for one worker's share.

use std::ops::Range;

use rayon::prelude::*;

use crate::ops::math::{exp, max, sum};
use crate::ops::matrix::{Matrix, MatrixMut, Onto, Threads, product};

/// What a step is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Mean of both cross-entropies over the global batch.
    pub loss: f64,
    /// Share of pictures whose own caption is the nearest of the batch.
    pub image_to_text: f64,
    /// Share of captions whose own picture is the nearest of the batch.
    pub text_to_image: f64,
    /// This worker's part of the gradient of the logit scale's logarithm: the parts add up.
    pub logit_scale_gradient: f64,
}

/// `(CE(scale · I · Tᵀ) + CE(scale · T · Iᵀ)) / 2`, where pair `i` is right for row `i`.
#[derive(Debug)]
pub struct ContrastiveLoss {
    width: usize,
    logits: Vec<f32>,
    rows: Vec<Softmax>,
    columns: Vec<Softmax>,
    /// The logit scale's gradient, row by row.
    slopes: Vec<f32>,
    image_gradient: Vec<f32>,
    text_gradient: Vec<f32>,
}

/// One row or column of logits: ln Σ eˣ, and whether its own pair is the largest.
#[derive(Clone, Copy, Debug, Default)]
struct Softmax {
    log_sum: f32,
    hit: bool,
}

impl ContrastiveLoss {
    /// Memory for a global batch of so many pairs of features.
    pub fn new(global_batch: usize, width: usize) -> Self {
        let features = || vec![0.0; global_batch * width];
        Self {
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

    /// Fills the logits, and what is to know of their rows and columns.
    fn compare(&mut self, (images, texts): (&[f32], &[f32]), logit_scale: f32) {
        let pairs = images.len() / self.width;
        let logits = &mut self.logits[..pairs * pairs];
        let sides = (Matrix::new(images, self.width), Matrix::new(texts, self.width).transposed());
        let target = MatrixMut::new(logits, pairs);
        product(target, Onto::Replace, logit_scale, sides, Threads::All);
        let logits = &*logits;
        let rows = self.rows[..pairs].par_iter_mut().zip(logits.par_chunks(pairs));
        rows.enumerate().for_each(|(own, (row, logits))| *row = Softmax::of_row(logits, own));
        let columns = self.columns[..pairs].par_chunks_mut(COLUMNS).enumerate();
        columns.for_each(|(chunk, columns)| {
            Softmax::of_columns(logits, pairs, chunk * COLUMNS, columns);
        });
    }

    fn score(&self, pairs: usize) -> Score {
        let own = |i: usize| f64::from(self.logits[i * pairs + i]);
        let cross_entropy = |sides: &[Softmax]| -> f64 {
            sides.iter().enumerate().map(|(i, side)| f64::from(side.log_sum) - own(i)).sum()
        };
        let hits = |sides: &[Softmax]| sides.iter().filter(|side| side.hit).count() as f64;
        let (rows, columns, count) = (&self.rows[..pairs], &self.columns[..pairs], pairs as f64);
        Score {
            loss: (cross_entropy(rows) + cross_entropy(columns)) / (2.0 * count),
            image_to_text: hits(rows) / count,
            text_to_image: hits(columns) / count,
            logit_scale_gradient: 0.0,
        }
    }

    /// The logits become their gradients, and each row's part of the logit scale's gradient is kept.
    fn differentiate(&mut self, pairs: usize) {
        let (rows, columns) = (&self.rows[..pairs], &self.columns[..pairs]);
        let share = 0.5 / pairs as f32;
        let slopes = self.slopes[..pairs].par_iter_mut();
        let logits = self.logits[..pairs * pairs].par_chunks_mut(pairs);
        slopes.zip(logits).enumerate().for_each(|(own, (slope, logits))| {
            let row = rows[own].log_sum;
            *slope = -2.0 * share * logits[own];
            *slope += sum(logits, |i, x| share * (exp(x - row) + exp(x - columns[i].log_sum)) * x);
            for (logit, column) in logits.iter_mut().zip(columns) {
                *logit = share * (exp(*logit - row) + exp(*logit - column.log_sum));
            }
            logits[own] -= 2.0 * share;
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
    fn of_row(logits: &[f32], own: usize) -> Self {
        let top = max(logits);
        let log_sum = top + sum(logits, |_, logit| exp(logit - top)).ln();
        // Of equal logits the first is the nearest: a model that maps all to one point scores low.
        Self { log_sum, hit: logits.iter().position(|&logit| logit == top) == Some(own) }
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
            let (log_sum, own) = (top[i] + sums[i].ln(), first + i);
            *column = Self { log_sum, hit: nearest[i] == own };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::normalize;
    use crate::ops::random::{normal, stream};

    const PAIRS: usize = 37;
    const WIDTH: usize = 11;

    fn features(seed: u64) -> Vec<f32> {
        let raw: Vec<f32> = (0..PAIRS * WIDTH).map(|i| normal(stream(seed, i as u64))).collect();
        let mut unit = raw.clone();
        normalize::forward(WIDTH, &raw, &mut unit);
        unit
    }

    fn mean_cross_entropy(from: &[f32], to: &[f32], scale: f64) -> f64 {
        let cosine = |i: usize, j: usize| -> f64 {
            let pair = from[i * WIDTH..][..WIDTH].iter().zip(&to[j * WIDTH..][..WIDTH]);
            scale * pair.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
        };
        let row = |i| (0..PAIRS).map(|j| cosine(i, j).exp()).sum::<f64>().ln() - cosine(i, i);
        (0..PAIRS).map(row).sum::<f64>() / PAIRS as f64
    }

    fn right_loss(images: &[f32], texts: &[f32], scale: f64) -> f64 {
        (mean_cross_entropy(images, texts, scale) + mean_cross_entropy(texts, images, scale)) / 2.0
    }

    #[test]
    fn the_loss_and_its_gradients_agree_with_the_formula_in_double_precision() {
        let (images, texts, scale) = (features(1), features(2), 14.3);
        let mut loss = ContrastiveLoss::new(PAIRS, WIDTH);
        let score = loss.evaluate((&images, &texts), scale, 0..PAIRS);
        let right = right_loss(&images, &texts, scale.into());
        assert!((score.loss - right).abs() < 1e-6, "{} for {right}", score.loss);
        let step = 1e-4f64;
        let (up, down) = (step.exp(), (-step).exp());
        let right = (right_loss(&images, &texts, f64::from(scale) * up)
            - right_loss(&images, &texts, f64::from(scale) * down))
            / (2.0 * step);
        assert!((score.logit_scale_gradient - right).abs() < 1e-5, "{right}");
        let (dimages, dtexts) = loss.gradients(0..PAIRS);
        for at in [0, 17, PAIRS * WIDTH - 1] {
            let nudged = |features: &[f32], by: f32| {
                let mut features = features.to_vec();
                features[at] += by;
                features
            };
            let step = 1e-2f32;
            let slope = |f: &dyn Fn(f32) -> f64| (f(step) - f(-step)) / (2.0 * f64::from(step));
            let right = slope(&|by| right_loss(&nudged(&images, by), &texts, scale.into()));
            assert!((f64::from(dimages[at]) - right).abs() < 1e-4, "{} for {right}", dimages[at]);
            let right = slope(&|by| right_loss(&images, &nudged(&texts, by), scale.into()));
            assert!((f64::from(dtexts[at]) - right).abs() < 1e-4, "{} for {right}", dtexts[at]);
        }
    }

    #[test]
    fn the_shares_of_two_workers_are_the_gradient_of_one() {
        let (images, texts) = (features(1), features(2));
        let mut whole = ContrastiveLoss::new(PAIRS, WIDTH);
        let right = whole.evaluate((&images, &texts), 20.0, 0..PAIRS);
        let mut slope = 0.0;
        for local in [0..13, 13..PAIRS] {
            let mut worker = ContrastiveLoss::new(PAIRS, WIDTH);
            let score = worker.evaluate((&images, &texts), 20.0, local.clone());
            assert_eq!(score.loss, right.loss);
            assert_eq!(worker.gradients(local.clone()), whole.gradients(local));
            slope += score.logit_scale_gradient;
        }
        assert!((slope - right.logit_scale_gradient).abs() < 1e-9);
    }

    #[test]
    fn a_pair_is_a_hit_where_it_is_nearest_and_a_collapsed_model_hits_once() {
        let images = features(1);
        let mut loss = ContrastiveLoss::new(PAIRS, WIDTH);
        let score = loss.evaluate((&images, &images), 20.0, 0..PAIRS);
        assert_eq!((score.image_to_text, score.text_to_image), (1.0, 1.0));
        let mut texts = images.clone();
        texts.rotate_left(WIDTH);
        let score = loss.evaluate((&images, &texts), 20.0, 0..PAIRS);
        assert_eq!((score.image_to_text, score.text_to_image), (0.0, 0.0));
        let one = images[..WIDTH].repeat(PAIRS);
        let score = loss.evaluate((&one, &one), 20.0, 0..PAIRS);
        assert!((score.image_to_text - 1.0 / PAIRS as f64).abs() < 1e-12);
        assert!((score.loss - (PAIRS as f64).ln()).abs() < 1e-5);
    }
}
