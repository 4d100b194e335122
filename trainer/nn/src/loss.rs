//! The symmetric contrastive loss over a global batch, and its gradients for one rank's share.

mod held;
mod products;
mod rows;
mod targets;

use std::ops::Range;

use cnclip_compute::collective::Ranks;
use cnclip_compute::tensor::{Array, Memory, View, ViewMut};
use held::Held;
use rows::Row;
pub use targets::Targets;

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
    /// Their parts of the gradient of the logit scale.
    slopes: Vec<f32>,
    /// ln Σ eˣ over all captions, of each picture of the global batch.
    images: Vec<f32>,
    /// The same over all pictures, of each caption.
    texts: Vec<f32>,
    image_gradient: Array,
    text_gradient: Array,
    /// What a device needs besides.
    held: Option<Held>,
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
            slopes: vec![0.0; own],
            images: vec![0.0; global_batch],
            texts: vec![0.0; global_batch],
            image_gradient: features(),
            text_gradient: features(),
            held: Held::new(memory, global_batch, own),
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

        if let Some(held) = &mut self.held {
            held.take(&self.targets, pairs);
        }

        let mut sums = [0.0; 3];
        self.compare((own_images, texts), logit_scale, &own);
        sums[1] = keep(
            &self.rows[..own.len()],
            &mut self.images[own.clone()],
            &mut sums[0],
        );

        self.compare((own_texts, images), logit_scale, &own);
        sums[2] = keep(
            &self.rows[..own.len()],
            &mut self.texts[own.clone()],
            &mut sums[0],
        );

        ranks.sum(&mut sums);
        ranks.gather(&mut self.images[..pairs]);
        ranks.gather(&mut self.texts[..pairs]);
        self.differentiate(Side::Texts, &own, pairs);
        let part = own.len() * self.width;
        let logits = own.len() * pairs;
        let gradient = self.text_gradient.first_mut(part);

        products::gather(
            gradient,
            self.logits.first(logits),
            (images, self.width),
            logit_scale,
        );

        self.multiply((own_images, texts), logit_scale);
        self.differentiate(Side::Images, &own, pairs);
        let gradient = self.image_gradient.first_mut(part);
        products::gather(
            gradient,
            self.logits.first(logits),
            (texts, self.width),
            logit_scale,
        );

        if let Some(held) = &self.held {
            held.slopes(&mut self.slopes[..own.len()]);
        }

        let slopes = self.slopes[..own.len()]
            .iter()
            .map(|&slope| f64::from(slope));

        let [loss, image_to_text, text_to_image] = sums.map(|sum| sum / pairs as f64);
        Score {
            loss: loss / 2.0,
            image_to_text,
            text_to_image,
            logit_scale_gradient: slopes.sum(),
        }
    }

    /// The gradients of the unit features of some of this rank's pairs, of pictures and of captions.
    pub fn gradients(&self, own: Range<usize>) -> (View<'_>, View<'_>) {
        let part = own.start * self.width..own.end * self.width;
        (
            self.image_gradient.part(part.clone()),
            self.text_gradient.part(part),
        )
    }

    /// The gradients of the unit features of pictures alone, to be added to.
    pub fn image_gradients(&mut self, own: Range<usize>) -> ViewMut<'_> {
        self.image_gradient
            .part_mut(own.start * self.width..own.end * self.width)
    }

    /// Fills the logits of this rank's rows, and what is to know of each.
    fn compare(&mut self, sides: (View<'_>, View<'_>), scale: f32, own: &Range<usize>) {
        self.multiply(sides, scale);
        let pairs = sides.1.len() / self.width;
        let found = &mut self.rows[..own.len()];

        match (self.logits.first(own.len() * pairs), &mut self.held) {
            (View::Device(logits), Some(held)) => held.look(logits, (own.start, pairs), found),
            (logits, _) => rows::look(logits.host(), (own.start, pairs), &self.targets, found),
        }
    }

    /// Fills the logits of this rank's rows.
    fn multiply(&mut self, (rows, columns): (View<'_>, View<'_>), scale: f32) {
        let own = rows.len() / self.width;
        let pairs = columns.len() / self.width;
        let target = self.logits.first_mut(own * pairs);
        products::compare(target, (rows, columns), self.width, scale);
    }

    /// The logits become their gradients, and each row's part of the logit scale's gradient is kept.
    fn differentiate(&mut self, side: Side, own: &Range<usize>, pairs: usize) {
        let sums = match side {
            Side::Images => (&self.images[..pairs], &self.texts[..pairs]),
            Side::Texts => (&self.texts[..pairs], &self.images[..pairs]),
        };

        let slopes = &mut self.slopes[..own.len()];
        match (self.logits.first_mut(own.len() * pairs), &mut self.held) {
            (ViewMut::Device(mut logits), Some(held)) => {
                held.differentiate(&mut logits, own.start, sums);
            }
            (logits, _) => {
                rows::differentiate(logits.host(), own.start, sums, &self.targets, slopes);
            }
        }
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
    log_sums
        .iter_mut()
        .zip(rows)
        .for_each(|(kept, row)| *kept = row.log_sum);

    *cross_entropy += rows.iter().map(|row| row.cross_entropy).sum::<f64>();
    rows.iter().filter(|row| row.hit).count() as f64
}

#[cfg(test)]
mod tests;
