//! What the loss keeps in a device's memory beside features and logits: which pairs are right, the
//! logarithms of sums, and what is found of each row.

use super::MatchTargets;
use super::row_stats::LogitRowStats;
use cnclip_compute::device::{DeviceBuffer, DeviceView, DeviceViewMut};
use cnclip_compute::ops::contrastive_loss::gpu::{self, STATISTICS_PER_ROW};
use cnclip_compute::tensor::{Memory, Tensor, TensorView};

/// Memory on a device for a global batch.
#[derive(Debug)]
pub(super) struct DeviceLossBuffers {
    /// A number for each picture, equal for equal ones.
    images: DeviceBuffer,
    /// The same for captions.
    texts: DeviceBuffer,
    target_weights: Tensor,
    /// ln Σ eˣ of all rows, and of all columns.
    log_sums: [Tensor; 2],
    row_stats: Tensor,
    scale_gradients: Tensor,
    /// Numbers on their way.
    staging: Vec<u32>,
}

impl DeviceLossBuffers {
    /// None for this machine's memory, which has all that.
    pub(super) fn new(memory: &Memory, global_batch: usize, own: usize) -> Option<Self> {
        Some(Self {
            images: memory.alloc_u32(global_batch)?,
            texts: memory.alloc_u32(global_batch)?,
            target_weights: memory.alloc_f32(global_batch),
            log_sums: [
                memory.alloc_f32(global_batch),
                memory.alloc_f32(global_batch),
            ],
            row_stats: memory.alloc_f32(STATISTICS_PER_ROW * own),
            scale_gradients: memory.alloc_f32(own),
            staging: Vec::with_capacity(global_batch),
        })
    }

    /// Takes over which of so many pairs are right for each other.
    pub(super) fn upload_targets(&mut self, targets: &MatchTargets, pairs: usize) {
        let [images, texts] = targets.group_ids();
        for (place, groups) in [(&mut self.images, images), (&mut self.texts, texts)] {
            self.staging.clear();
            self.staging.extend((0..pairs).map(groups));
            place.upload_u32(&self.staging);
        }

        self.target_weights
            .first_n_mut(pairs)
            .copy_from(TensorView::Host(targets.target_weights(pairs)));
    }

    /// As [`super::rows::look`]. The device is waited for, once a side: ranks tell each other what they
    /// found, and no step is taken where the loss is not a number.
    pub(super) fn compute_row_stats(
        &mut self,
        logits: DeviceView<'_>,
        (first, pairs): (usize, usize),
        rows: &mut [LogitRowStats],
    ) {
        let Self {
            images,
            texts,
            target_weights: shares,
            row_stats: found,
            ..
        } = self;

        let targets = device_targets(images, texts, shares, pairs);
        let mut found = found
            .first_n_mut(STATISTICS_PER_ROW * rows.len())
            .expect_device();
        gpu::row_statistics(logits, (first, pairs), targets, &mut found);
        let found = found.as_view().to_host();

        for (row, found) in rows
            .iter_mut()
            .zip(found.as_chunks::<STATISTICS_PER_ROW>().0)
        {
            let [log_sum, right, hit] = *found;
            let cross_entropy = f64::from(log_sum) - f64::from(right);
            *row = LogitRowStats {
                log_sum,
                cross_entropy,
                is_hit: hit > 0.0,
            };
        }
    }

    /// As [`super::rows::differentiate`], but that the slopes are told later.
    pub(super) fn logits_to_gradients(
        &mut self,
        logits: &mut DeviceViewMut<'_>,
        first: usize,
        (of_rows, of_columns): (&[f32], &[f32]),
    ) {
        let pairs = of_columns.len();
        let Self {
            images,
            texts,
            target_weights: shares,
            log_sums: [rows, columns],
            scale_gradients: slopes,
            ..
        } = self;

        rows.first_n_mut(pairs).copy_from(TensorView::Host(of_rows));
        columns
            .first_n_mut(pairs)
            .copy_from(TensorView::Host(of_columns));
        let sums = (
            rows.first_n(pairs).expect_device(),
            columns.first_n(pairs).expect_device(),
        );
        let mut slopes = slopes.first_n_mut(logits.len() / pairs).expect_device();
        let targets = device_targets(images, texts, shares, pairs);

        gpu::logits_to_gradients(logits, (first, pairs), sums, targets, &mut slopes);
    }

    /// What the rows differentiated last add to the gradient of the logit scale; the device is waited for.
    pub(super) fn download_scale_gradients(&self, told: &mut [f32]) {
        told.copy_from_slice(&self.scale_gradients.first_n(told.len()).to_host());
    }
}

fn device_targets<'a>(
    images: &'a DeviceBuffer,
    texts: &'a DeviceBuffer,
    shares: &'a Tensor,
    pairs: usize,
) -> gpu::DeviceTargets<'a> {
    let images = images.as_view().first_n(pairs);
    let texts = texts.as_view().first_n(pairs);
    gpu::DeviceTargets {
        images,
        texts,
        target_weights: shares.first_n(pairs).expect_device(),
    }
}
