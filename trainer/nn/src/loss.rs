//! The symmetric contrastive loss over a global batch, and its gradients for one rank's share.

mod device_buffers;
mod logits;
mod row_stats;
mod targets;

use std::ops::Range;

use cnclip_compute::collective::Collective;
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};
use device_buffers::DeviceLossBuffers;
use row_stats::LogitRowStats;
pub use targets::MatchTargets;

/// What a step is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossOutput {
    /// Mean of both cross-entropies over the global batch.
    pub loss: f64,
    /// Share of pictures whose nearest caption of the batch is right.
    pub image_to_text_accuracy: f64,
    /// Share of captions whose nearest picture of the batch is right.
    pub text_to_image_accuracy: f64,
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
    pub targets: MatchTargets,
    width: usize,
    logits: Tensor,
    /// What is to know of the rank's own rows of logits.
    row_stats: Vec<LogitRowStats>,
    /// Their parts of the gradient of the logit scale.
    scale_gradients: Vec<f32>,
    /// ln Σ eˣ over all captions, of each picture of the global batch.
    image_log_sums: Vec<f32>,
    /// The same over all pictures, of each caption.
    text_log_sums: Vec<f32>,
    image_gradient: Tensor,
    text_gradient: Tensor,
    /// What a device needs besides.
    device_buffers: Option<DeviceLossBuffers>,
}

impl ContrastiveLoss {
    /// Memory for a global batch of so many pairs of features.
    pub fn new(global_batch: usize, width: usize) -> Self {
        Self::new_in(&Memory::Host, (global_batch, global_batch), width)
    }

    /// The same in some memory, where `own` of the pairs are this rank's.
    pub fn new_in(memory: &Memory, (global_batch, own): (usize, usize), width: usize) -> Self {
        let features = || memory.alloc_f32(own * width);
        Self {
            targets: MatchTargets::new(global_batch),
            width,
            logits: memory.alloc_f32(own * global_batch),
            row_stats: vec![LogitRowStats::default(); own],
            scale_gradients: vec![0.0; own],
            image_log_sums: vec![0.0; global_batch],
            text_log_sums: vec![0.0; global_batch],
            image_gradient: features(),
            text_gradient: features(),
            device_buffers: DeviceLossBuffers::new(memory, global_batch, own),
        }
    }

    /// The loss of a global batch of unit features, and the gradients of this rank's.
    ///
    /// # Shapes
    /// `images`, `texts` [global batch, width].
    pub fn compute_loss(
        &mut self,
        (images, texts): (TensorView<'_>, TensorView<'_>),
        logit_scale: f32,
        ranks: &dyn Collective,
    ) -> LossOutput {
        let pairs = images.len() / self.width;
        let own = ranks.rank_range(pairs);
        let [own_images, own_texts] =
            [images, texts].map(|all| all.slice(own.start * self.width..own.end * self.width));

        if let Some(held) = &mut self.device_buffers {
            held.upload_targets(&self.targets, pairs);
        }

        let mut sums = [0.0; 3];
        self.compute_logit_stats((own_images, texts), logit_scale, &own);
        sums[1] = accumulate_row_stats(
            &self.row_stats[..own.len()],
            &mut self.image_log_sums[own.clone()],
            &mut sums[0],
        );

        self.compute_logit_stats((own_texts, images), logit_scale, &own);
        sums[2] = accumulate_row_stats(
            &self.row_stats[..own.len()],
            &mut self.text_log_sums[own.clone()],
            &mut sums[0],
        );

        ranks.all_reduce_sum_f64(&mut sums);
        ranks.all_gather_f32(&mut self.image_log_sums[..pairs]);
        ranks.all_gather_f32(&mut self.text_log_sums[..pairs]);
        self.logits_to_gradients(LogitRowSide::Texts, &own, pairs);
        let part = own.len() * self.width;
        let logits = own.len() * pairs;
        let gradient = self.text_gradient.first_n_mut(part);

        logits::compute_feature_gradients(
            gradient,
            self.logits.first_n(logits),
            (images, self.width),
            logit_scale,
        );

        self.compute_logits((own_images, texts), logit_scale);
        self.logits_to_gradients(LogitRowSide::Images, &own, pairs);
        let gradient = self.image_gradient.first_n_mut(part);
        logits::compute_feature_gradients(
            gradient,
            self.logits.first_n(logits),
            (texts, self.width),
            logit_scale,
        );

        if let Some(held) = &self.device_buffers {
            held.download_scale_gradients(&mut self.scale_gradients[..own.len()]);
        }

        let slopes = self.scale_gradients[..own.len()]
            .iter()
            .map(|&slope| f64::from(slope));

        let [loss, image_to_text, text_to_image] = sums.map(|sum| sum / pairs as f64);
        LossOutput {
            loss: loss / 2.0,
            image_to_text_accuracy: image_to_text,
            text_to_image_accuracy: text_to_image,
            logit_scale_gradient: slopes.sum(),
        }
    }

    /// The gradients of the unit features of some of this rank's pairs, of pictures and of captions.
    pub fn feature_gradients(&self, own: Range<usize>) -> (TensorView<'_>, TensorView<'_>) {
        let part = own.start * self.width..own.end * self.width;
        (
            self.image_gradient.slice(part.clone()),
            self.text_gradient.slice(part),
        )
    }

    /// The gradients of the unit features of pictures alone, to be added to.
    pub fn image_gradients_mut(&mut self, own: Range<usize>) -> TensorViewMut<'_> {
        self.image_gradient
            .slice_mut(own.start * self.width..own.end * self.width)
    }

    /// Fills the logits of this rank's rows, and what is to know of each.
    fn compute_logit_stats(
        &mut self,
        sides: (TensorView<'_>, TensorView<'_>),
        scale: f32,
        own: &Range<usize>,
    ) {
        self.compute_logits(sides, scale);
        let pairs = sides.1.len() / self.width;
        let found = &mut self.row_stats[..own.len()];

        match (
            self.logits.first_n(own.len() * pairs),
            &mut self.device_buffers,
        ) {
            (TensorView::Device(logits), Some(held)) => {
                held.compute_row_stats(logits, (own.start, pairs), found)
            }
            (logits, _) => row_stats::compute_row_stats(
                logits.expect_host(),
                (own.start, pairs),
                &self.targets,
                found,
            ),
        }
    }

    /// Fills the logits of this rank's rows.
    fn compute_logits(&mut self, (rows, columns): (TensorView<'_>, TensorView<'_>), scale: f32) {
        let own = rows.len() / self.width;
        let pairs = columns.len() / self.width;
        let target = self.logits.first_n_mut(own * pairs);
        logits::compute_logits(target, (rows, columns), self.width, scale);
    }

    /// The logits become their gradients, and each row's part of the logit scale's gradient is kept.
    fn logits_to_gradients(&mut self, side: LogitRowSide, own: &Range<usize>, pairs: usize) {
        let sums = match side {
            LogitRowSide::Images => (&self.image_log_sums[..pairs], &self.text_log_sums[..pairs]),
            LogitRowSide::Texts => (&self.text_log_sums[..pairs], &self.image_log_sums[..pairs]),
        };

        let slopes = &mut self.scale_gradients[..own.len()];
        match (
            self.logits.first_n_mut(own.len() * pairs),
            &mut self.device_buffers,
        ) {
            (TensorViewMut::Device(mut logits), Some(held)) => {
                held.logits_to_gradients(&mut logits, own.start, sums);
            }
            (logits, _) => {
                row_stats::logits_to_gradients(
                    logits.expect_host(),
                    own.start,
                    sums,
                    &self.targets,
                    slopes,
                );
            }
        }
    }
}

/// What is a row of logits.
#[derive(Clone, Copy)]
enum LogitRowSide {
    Images,
    Texts,
}

/// Keeps the logarithms of sums, adds the cross-entropies and counts the hits.
fn accumulate_row_stats(
    rows: &[LogitRowStats],
    log_sums: &mut [f32],
    cross_entropy: &mut f64,
) -> f64 {
    log_sums
        .iter_mut()
        .zip(rows)
        .for_each(|(kept, row)| *kept = row.log_sum);

    *cross_entropy += rows.iter().map(|row| row.cross_entropy).sum::<f64>();
    rows.iter().filter(|row| row.is_hit).count() as f64
}

#[cfg(test)]
mod tests;
