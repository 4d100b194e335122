//! The symmetric contrastive loss over a global batch, and its gradients for one rank's share.

use std::ops::Range;

use cnclip_compute::collective::Collective;
use cnclip_compute::digest::Fingerprint;
use cnclip_compute::ops::contrastive_loss::{self, LogSums, LogitRowStats, LossTargets};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

use crate::model::ImageTextFeatures;

/// The loss of a global batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossOutput {
    /// Mean of both cross-entropies over the global batch.
    pub loss: f64,
    /// Share of images whose nearest text of the batch is a match.
    pub image_to_text_accuracy: f64,
    /// Share of texts whose nearest image of the batch is a match.
    pub text_to_image_accuracy: f64,
    /// This rank's part of the gradient of the logit scale's logarithm: the parts add up.
    pub logit_scale_gradient: f64,
}

/// The symmetric contrastive loss, `(CE(scale · I · Tᵀ) + CE(scale · T · Iᵀ)) / 2`, where the target of a
/// row is spread equally over its matches.
///
/// A rank compares its own images with all texts, and its own texts with all images, one after the other
/// in the same memory: local batch × global batch logits, where one matrix of all pairs on every rank
/// would grow with the square of the global batch.
///
/// ```
/// use cnclip_compute::collective::SingleRank;
/// use cnclip_compute::tensor::TensorView;
/// use cnclip_nn::loss::ContrastiveLoss;
/// use cnclip_nn::model::ImageTextFeatures;
///
/// // Two samples whose images and texts have the same unit features.
/// let features = [1.0, 0.0, 0.0, 1.0];
/// let batch = ImageTextFeatures {
///     images: TensorView::Host(&features),
///     texts: TensorView::Host(&features),
/// };
///
/// let mut loss = ContrastiveLoss::new(2, 2);
/// let output = loss.compute_loss(batch, 100.0, &SingleRank);
/// assert!(output.loss < 1e-6);
/// assert_eq!(output.image_to_text_accuracy, 1.0);
/// ```
#[derive(Debug)]
pub struct ContrastiveLoss {
    targets: LossTargets,
    width: usize,
    logits: Tensor,
    /// Statistics of this rank's rows of logits.
    row_stats: Vec<LogitRowStats>,
    /// Their parts of the gradient of the logit scale.
    scale_gradients: Vec<f32>,
    /// ln Σ eˣ over all texts, of each image of the global batch.
    image_log_sums: Vec<f32>,
    /// The same over all images, of each text.
    text_log_sums: Vec<f32>,
    image_gradient: Tensor,
    text_gradient: Tensor,
}

impl ContrastiveLoss {
    /// Memory for a global batch of features, all of them this rank's.
    pub fn new(global_batch: usize, width: usize) -> Self {
        Self::new_in(&Memory::Host, global_batch, global_batch, width)
    }

    /// The same in host memory or on a device, where `local_batch` of the samples are this rank's.
    pub fn new_in(memory: &Memory, global_batch: usize, local_batch: usize, width: usize) -> Self {
        let alloc_features = || memory.alloc_f32(local_batch * width);
        Self {
            targets: LossTargets::new_in(memory, global_batch, local_batch),
            width,
            logits: memory.alloc_f32(local_batch * global_batch),
            row_stats: vec![LogitRowStats::default(); local_batch],
            scale_gradients: vec![0.0; local_batch],
            image_log_sums: vec![0.0; global_batch],
            text_log_sums: vec![0.0; global_batch],
            image_gradient: alloc_features(),
            text_gradient: alloc_features(),
        }
    }

    /// Samples with equal images or equal texts match each other in the next batch.
    pub fn match_equal(&mut self, batch: &[Fingerprint]) {
        self.targets.matches.match_equal(batch);
    }

    /// The loss of a global batch of unit features, and the gradients of this rank's.
    pub fn compute_loss(
        &mut self,
        features: ImageTextFeatures<'_>,
        logit_scale: f32,
        ranks: &dyn Collective,
    ) -> LossOutput {
        let global_batch = features.images.len() / self.width;
        let local = ranks.rank_range(global_batch);
        // Once a batch: both sides read the same matches.
        self.targets.upload_matches(global_batch);
        let means = self.reduce_row_stats(features, logit_scale, &local, ranks);
        self.compute_gradients(features, logit_scale, &local);
        self.targets
            .download_scale_gradients(&mut self.scale_gradients[..local.len()]);

        // In fp64: the parts of many rows nearly cancel.
        let scale_gradients = self.scale_gradients[..local.len()].iter();
        LossOutput {
            logit_scale_gradient: scale_gradients.map(|&part| f64::from(part)).sum(),
            ..means
        }
    }

    /// The gradients of the unit features of some of this rank's samples.
    pub fn feature_gradients(&self, local: Range<usize>) -> ImageTextFeatures<'_> {
        let range = local.start * self.width..local.end * self.width;
        ImageTextFeatures {
            images: self.image_gradient.slice(range.clone()),
            texts: self.text_gradient.slice(range),
        }
    }

    /// The gradients of the unit features of images alone, to be added to.
    pub fn image_gradients_mut(&mut self, local: Range<usize>) -> TensorViewMut<'_> {
        self.image_gradient
            .slice_mut(local.start * self.width..local.end * self.width)
    }

    /// The loss and the accuracies over all ranks' rows; `image_log_sums` and `text_log_sums` are those of
    /// the global batch afterwards, which the gradient of every logit needs.
    fn reduce_row_stats(
        &mut self,
        features: ImageTextFeatures<'_>,
        logit_scale: f32,
        local: &Range<usize>,
        ranks: &dyn Collective,
    ) -> LossOutput {
        let ImageTextFeatures { images, texts } = features;
        let global_batch = images.len() / self.width;
        let local_images = self.rows_of(images, local);
        let local_texts = self.rows_of(texts, local);

        self.compute_logit_stats(local_images, texts, logit_scale, local);
        let row_stats = &self.row_stats[..local.len()];
        let image_side = SideStats::sum_rows(row_stats);
        copy_log_sums(row_stats, &mut self.image_log_sums[local.clone()]);

        self.compute_logit_stats(local_texts, images, logit_scale, local);
        let row_stats = &self.row_stats[..local.len()];
        let text_side = SideStats::sum_rows(row_stats);
        copy_log_sums(row_stats, &mut self.text_log_sums[local.clone()]);

        let mut sums = [
            image_side.cross_entropy + text_side.cross_entropy,
            image_side.hits,
            text_side.hits,
        ];

        // A rank's rows say how its features do; the gradient of a column needs the log-sums of all rows.
        ranks.all_reduce_sum_f64(&mut sums);
        ranks.all_gather_f32(&mut self.image_log_sums[..global_batch]);
        ranks.all_gather_f32(&mut self.text_log_sums[..global_batch]);

        let [loss, image_to_text, text_to_image] = sums.map(|sum| sum / global_batch as f64);
        LossOutput {
            loss: loss / 2.0,
            image_to_text_accuracy: image_to_text,
            text_to_image_accuracy: text_to_image,
            logit_scale_gradient: 0.0,
        }
    }

    /// The gradients of this rank's features and of its part of the logit scale.
    fn compute_gradients(
        &mut self,
        features: ImageTextFeatures<'_>,
        logit_scale: f32,
        local: &Range<usize>,
    ) {
        let ImageTextFeatures { images, texts } = features;
        let global_batch = images.len() / self.width;
        let local_images = self.rows_of(images, local);
        let logits_len = local.len() * global_batch;
        let gradient_len = local.len() * self.width;

        // The logits of the texts are still there; those of the images were overwritten, and computing
        // them again costs less than memory for both.
        self.logits_to_gradients(LogitRowSide::Texts, local, global_batch);
        contrastive_loss::compute_feature_gradients(
            self.text_gradient.first_n_mut(gradient_len),
            self.logits.first_n(logits_len),
            images,
            self.width,
            logit_scale,
        );

        // The gradient of a logit holds both directions of the loss on either side. Adding the logit
        // scale's parts of both sides would count it twice, so those of the images overwrite the others.
        self.compute_logits(local_images, texts, logit_scale);
        self.logits_to_gradients(LogitRowSide::Images, local, global_batch);
        contrastive_loss::compute_feature_gradients(
            self.image_gradient.first_n_mut(gradient_len),
            self.logits.first_n(logits_len),
            texts,
            self.width,
            logit_scale,
        );
    }

    fn rows_of<'a>(&self, features: TensorView<'a>, rows: &Range<usize>) -> TensorView<'a> {
        features.slice(rows.start * self.width..rows.end * self.width)
    }

    /// Computes the logits of this rank's rows, and the statistics of each.
    fn compute_logit_stats(
        &mut self,
        rows: TensorView<'_>,
        columns: TensorView<'_>,
        scale: f32,
        local: &Range<usize>,
    ) {
        self.compute_logits(rows, columns, scale);
        let global_batch = columns.len() / self.width;
        let row_stats = &mut self.row_stats[..local.len()];
        let logits = self.logits.first_n(local.len() * global_batch);

        contrastive_loss::row_statistics(
            logits,
            local.start,
            global_batch,
            &mut self.targets,
            row_stats,
        );
    }

    /// Computes the logits of this rank's rows.
    fn compute_logits(&mut self, rows: TensorView<'_>, columns: TensorView<'_>, scale: f32) {
        let local_batch = rows.len() / self.width;
        let global_batch = columns.len() / self.width;
        let logits = self.logits.first_n_mut(local_batch * global_batch);
        contrastive_loss::compute_logits(logits, rows, columns, self.width, scale);
    }

    /// Overwrites the logits with their gradients, and keeps each row's part of the logit scale's gradient.
    fn logits_to_gradients(
        &mut self,
        side: LogitRowSide,
        local: &Range<usize>,
        global_batch: usize,
    ) {
        let images = &self.image_log_sums[..global_batch];
        let texts = &self.text_log_sums[..global_batch];
        let log_sums = match side {
            LogitRowSide::Images => LogSums {
                rows: images,
                columns: texts,
            },
            LogitRowSide::Texts => LogSums {
                rows: texts,
                columns: images,
            },
        };

        let logits = self.logits.first_n_mut(local.len() * global_batch);
        contrastive_loss::logits_to_gradients(
            logits,
            local.start,
            log_sums,
            &mut self.targets,
            &mut self.scale_gradients[..local.len()],
        );
    }
}

/// Sums over one side's rows of this rank.
struct SideStats {
    cross_entropy: f64,
    hits: f64,
}

impl SideStats {
    fn sum_rows(rows: &[LogitRowStats]) -> Self {
        Self {
            cross_entropy: rows.iter().map(|row| row.cross_entropy).sum(),
            hits: rows.iter().filter(|row| row.is_hit).count() as f64,
        }
    }
}

fn copy_log_sums(rows: &[LogitRowStats], log_sums: &mut [f32]) {
    for (log_sum, row) in log_sums.iter_mut().zip(rows) {
        *log_sum = row.log_sum;
    }
}

/// Whose features the rows of the logits are.
#[derive(Clone, Copy)]
enum LogitRowSide {
    Images,
    Texts,
}

#[cfg(test)]
mod tests;
