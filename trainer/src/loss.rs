//! The symmetric contrastive loss over a global batch, and its gradients for one rank's share.

mod targets;

use std::ops::Range;

use rayon::prelude::*;

use crate::array::{Array, Memory, View, ViewMut};
use crate::ops::math::{exp, max, sum};
use crate::ops::matrix::{Matrix, MatrixMut, Onto, Threads, product};
use crate::ops::ranks::Ranks;
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
    /// This rank's part of the gradient of the logit scale's logarithm: the parts add up.
    pub logit_scale_gradient: f64,
}

/// `(CE(scale · I · Tᵀ) + CE(scale · T · Iᵀ)) / 2`, where the targets of a row are what is right for it,
/// in equal shares.
///
/// A rank compares its own pictures with all captions, and its own captions with all pictures, one after
/// the other in the same memory: as many logits as it has pairs, times those of the global batch.
#[derive(Debug)]
pub struct ContrastiveLoss {
    /// What is right for what in the batch that comes next: each pair for itself, until it is told.
    pub targets: Targets,
    width: usize,
    logits: Array,
    /// What is to know of the rank's own rows of logits.
    rows: Vec<Row>,
    /// ln Σ eˣ over all captions, of each picture of the global batch.
    images: Vec<f32>,
    /// The same over all pictures, of each caption.
    texts: Vec<f32>,
    image_gradient: Array,
    text_gradient: Array,
}

/// One row of logits.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    /// ln Σ eˣ.
    log_sum: f32,
    /// What it is away from that where it should be, on average.
    cross_entropy: f64,
    /// Whether the nearest is right.
    hit: bool,
    /// Its part of the gradient of the logit scale.
    slope: f32,
}

impl ContrastiveLoss {
    /// Memory for a global batch of so many pairs of features.
    pub fn new(global_batch: usize, width: usize) -> Self {
        Self::within(&Memory::Host, (global_batch, global_batch), width)
    }

    /// The same in some memory, where `own` of the pairs are this rank's.
    pub fn within(memory: &Memory, (global_batch, own): (usize, usize), width: usize) -> Self {
        let features = || memory.exact(own * width);
        Self {
            targets: Targets::new(global_batch),
            width,
            logits: memory.exact(own * global_batch),
            rows: vec![Row::default(); own],
            images: vec![0.0; global_batch],
            texts: vec![0.0; global_batch],
            image_gradient: features(),
            text_gradient: features(),
        }
    }

    /// The loss of a global batch of unit features, and the gradients of this rank's.
    ///
    /// # Shapes
    /// `images`, `texts` [global batch, width].
    pub fn evaluate(
        &mut self,
        (images, texts): (View<'_>, View<'_>),
        logit_scale: f32,
        ranks: &dyn Ranks,
    ) -> Score {
        let pairs = images.len() / self.width;
        let own = ranks.share(pairs);
        let [own_images, own_texts] =
            [images, texts].map(|all| all.part(own.start * self.width..own.end * self.width));
        let mut sums = [0.0; 3];
        self.compare((own_images, texts), logit_scale, &own);
        sums[1] = keep(&self.rows[..own.len()], &mut self.images[own.clone()], &mut sums[0]);
        self.compare((own_texts, images), logit_scale, &own);
        sums[2] = keep(&self.rows[..own.len()], &mut self.texts[own.clone()], &mut sums[0]);
        ranks.sum(&mut sums);
        ranks.gather(&mut self.images[..pairs]);
        ranks.gather(&mut self.texts[..pairs]);
        self.differentiate(Side::Texts, &own, pairs);
        let part = own.len() * self.width;
        let gradient = self.text_gradient.first_mut(part);
        product_onto(gradient, self.logits.view(), (images, self.width), logit_scale);
        self.multiply((own_images, texts), logit_scale);
        self.differentiate(Side::Images, &own, pairs);
        let gradient = self.image_gradient.first_mut(part);
        product_onto(gradient, self.logits.view(), (texts, self.width), logit_scale);
        let slopes = self.rows[..own.len()].iter().map(|row| f64::from(row.slope));
        let [loss, image_to_text, text_to_image] = sums.map(|sum| sum / pairs as f64);
        Score { loss: loss / 2.0, image_to_text, text_to_image, logit_scale_gradient: slopes.sum() }
    }

    /// The gradients of the unit features of some of this rank's pairs, of pictures and of captions.
    pub fn gradients(&self, own: Range<usize>) -> (View<'_>, View<'_>) {
        let part = own.start * self.width..own.end * self.width;
        (self.image_gradient.part(part.clone()), self.text_gradient.part(part))
    }

    /// The gradients of the unit features of pictures alone, to be added to.
    pub fn image_gradients(&mut self, own: Range<usize>) -> ViewMut<'_> {
        self.image_gradient.part_mut(own.start * self.width..own.end * self.width)
    }

    /// Fills the logits of this rank's rows, and what is to know of each.
    fn compare(&mut self, sides: (View<'_>, View<'_>), scale: f32, own: &Range<usize>) {
        self.multiply(sides, scale);
        let pairs = sides.1.len() / self.width;
        let logits: &[f32] = self.logits.first(own.len() * pairs).into();
        let logits = logits.par_chunks(pairs);
        let (targets, rows) = (&self.targets, self.rows[..own.len()].par_iter_mut());
        let rows = rows.zip(logits).zip(own.clone());
        rows.for_each(|((row, logits), pair)| *row = Row::of(logits, pair, targets));
    }

    /// Fills the logits of this rank's rows.
    fn multiply(&mut self, (rows, columns): (View<'_>, View<'_>), scale: f32) {
        let (own, pairs) = (rows.len() / self.width, columns.len() / self.width);
        let target = MatrixMut::new(self.logits.first_mut(own * pairs).into(), pairs);
        let sides = (
            Matrix::new(rows.into(), self.width),
            Matrix::new(columns.into(), self.width).transposed(),
        );
        product(target, Onto::Replace, scale, sides, Threads::All);
    }

    /// The logits become their gradients, and each row's part of the logit scale's gradient is kept.
    fn differentiate(&mut self, side: Side, own: &Range<usize>, pairs: usize) {
        let (rows, columns) = match side {
            Side::Images => (&self.images[..pairs], &self.texts[..pairs]),
            Side::Texts => (&self.texts[..pairs], &self.images[..pairs]),
        };
        let targets = &self.targets;
        let share = 0.5 / pairs as f32;
        let logits: &mut [f32] = self.logits.first_mut(own.len() * pairs).into();
        let logits = logits.par_chunks_mut(pairs);
        let slopes = self.rows[..own.len()].par_iter_mut().map(|row| &mut row.slope);
        slopes.zip(logits).zip(own.clone()).for_each(|((slope, logits), own)| {
            let row = rows[own];
            // What both directions expect of a right pair.
            let expected = |j| share * (targets.share(own) + targets.share(j));
            *slope = targets.of(own).map(|j| -expected(j) * logits[j]).sum();
            *slope += sum(logits, |i, x| share * (exp(x - row) + exp(x - columns[i])) * x);
            for (logit, column) in logits.iter_mut().zip(columns) {
                *logit = share * (exp(*logit - row) + exp(*logit - column));
            }
            targets.of(own).for_each(|j| logits[j] -= expected(j));
        });
    }
}

/// What is a row of logits.
#[derive(Clone, Copy)]
enum Side {
    Images,
    Texts,
}

/// Keeps the logarithms of sums, adds the cross-entropies and counts the hits.
fn keep(rows: &[Row], log_sums: &mut [f32], cross_entropy: &mut f64) -> f64 {
    log_sums.iter_mut().zip(rows).for_each(|(kept, row)| *kept = row.log_sum);
    *cross_entropy += rows.iter().map(|row| row.cross_entropy).sum::<f64>();
    rows.iter().filter(|row| row.hit).count() as f64
}

/// From the gradients of the logits to those of the features of their rows.
fn product_onto(
    gradient: ViewMut<'_>,
    logits: View<'_>,
    (all, width): (View<'_>, usize),
    scale: f32,
) {
    let pairs = all.len() / width;
    let own = gradient.len() / width;
    let sides =
        (Matrix::new(logits.first(own * pairs).into(), pairs), Matrix::new(all.into(), width));
    product(MatrixMut::new(gradient.into(), width), Onto::Replace, scale, sides, Threads::All);
}

impl Row {
    fn of(logits: &[f32], pair: usize, targets: &Targets) -> Self {
        let top = max(logits);
        let log_sum = top + sum(logits, |_, logit| exp(logit - top)).ln();
        // Of equal logits the first is the nearest: a model that maps all to one point scores low.
        let nearest = logits.iter().position(|&logit| logit == top).unwrap_or_default();
        let right = targets.of(pair).map(|other| f64::from(logits[other])).sum::<f64>();
        Self {
            log_sum,
            cross_entropy: f64::from(log_sum) - right * f64::from(targets.share(pair)),
            hit: targets.right(pair, nearest),
            slope: 0.0,
        }
    }
}

#[cfg(test)]
mod tests;
