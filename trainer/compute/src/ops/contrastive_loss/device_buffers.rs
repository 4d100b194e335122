//! What the loss keeps on a device beside features and logits: matches, log-sums, and the statistics of
//! each row.

use super::gpu::{self, STATISTICS_PER_ROW};
use super::{LogSums, LogitRowStats, MatchTargets};
use crate::device::{DeviceBuffer, DeviceView, DeviceViewMut};
use crate::tensor::{Memory, Tensor, TensorView};

/// Memory on a device for a global batch.
#[derive(Debug)]
pub(super) struct DeviceLossBuffers {
    /// The group of each image: equal for equal images.
    images: DeviceBuffer,
    /// The same for texts.
    texts: DeviceBuffer,
    target_weights: Tensor,
    /// ln Σ eˣ of all rows, and of all columns.
    log_sums: [Tensor; 2],
    row_stats: Tensor,
    scale_gradients: Tensor,
    /// Groups on their way to the device.
    staging: Vec<u32>,
}

impl DeviceLossBuffers {
    /// None for host memory, where [`MatchTargets`] is read in place.
    pub(super) fn new(memory: &Memory, global_batch: usize, local_batch: usize) -> Option<Self> {
        Some(Self {
            images: memory.alloc_u32(global_batch)?,
            texts: memory.alloc_u32(global_batch)?,
            target_weights: memory.alloc_f32(global_batch),
            log_sums: [
                memory.alloc_f32(global_batch),
                memory.alloc_f32(global_batch),
            ],
            row_stats: memory.alloc_f32(STATISTICS_PER_ROW * local_batch),
            scale_gradients: memory.alloc_f32(local_batch),
            staging: Vec::with_capacity(global_batch),
        })
    }

    /// Copies the matches of a global batch to the device.
    pub(super) fn upload_targets(&mut self, targets: &MatchTargets, global_batch: usize) {
        // Groups rather than fingerprints: within a batch 32 bits are enough, and kernels compare them faster.
        let [images, texts] = targets.group_ids();
        for (buffer, group_of) in [(&mut self.images, images), (&mut self.texts, texts)] {
            self.staging.clear();
            self.staging.extend((0..global_batch).map(group_of));
            buffer.upload_u32(&self.staging);
        }

        self.target_weights
            .first_n_mut(global_batch)
            .copy_from(TensorView::Host(targets.target_weights(global_batch)));
    }

    /// As [`super::cpu::row_statistics`]. Waits for the device, once a side: ranks exchange the
    /// statistics through host memory, and no step is taken where the loss is not a number.
    pub(super) fn row_statistics(
        &mut self,
        logits: DeviceView<'_>,
        first: usize,
        global_batch: usize,
        rows: &mut [LogitRowStats],
    ) {
        let targets = device_targets(
            &self.images,
            &self.texts,
            &self.target_weights,
            global_batch,
        );

        let mut row_stats = self
            .row_stats
            .first_n_mut(STATISTICS_PER_ROW * rows.len())
            .expect_device();

        gpu::row_statistics(logits, first, global_batch, targets, &mut row_stats);
        // The difference in fp64 on the host, as there.
        let row_stats = row_stats.as_view().to_host();
        let (row_stats, _) = row_stats.as_chunks::<STATISTICS_PER_ROW>();

        for (row, &[log_sum, matching, hit]) in rows.iter_mut().zip(row_stats) {
            *row = LogitRowStats {
                log_sum,
                cross_entropy: f64::from(log_sum) - f64::from(matching),
                is_hit: hit > 0.0,
            };
        }
    }

    /// As [`super::cpu::logits_to_gradients`]; the scale gradients are downloaded later.
    pub(super) fn logits_to_gradients(
        &mut self,
        logits: &mut DeviceViewMut<'_>,
        first: usize,
        log_sums: LogSums<&[f32]>,
    ) {
        let global_batch = log_sums.columns.len();
        let [rows, columns] = &mut self.log_sums;
        rows.first_n_mut(global_batch)
            .copy_from(TensorView::Host(log_sums.rows));
        columns
            .first_n_mut(global_batch)
            .copy_from(TensorView::Host(log_sums.columns));

        let log_sums = LogSums {
            rows: rows.first_n(global_batch).expect_device(),
            columns: columns.first_n(global_batch).expect_device(),
        };

        let targets = device_targets(
            &self.images,
            &self.texts,
            &self.target_weights,
            global_batch,
        );

        let mut scale_gradients = self
            .scale_gradients
            .first_n_mut(logits.len() / global_batch)
            .expect_device();

        gpu::logits_to_gradients(logits, first, log_sums, targets, &mut scale_gradients);
    }

    /// The parts of the logit scale's gradient of the rows whose gradients were computed last. Waits for
    /// the device.
    pub(super) fn download_scale_gradients(&self, scale_gradients: &mut [f32]) {
        let on_device = self.scale_gradients.first_n(scale_gradients.len());
        scale_gradients.copy_from_slice(&on_device.to_host());
    }
}

fn device_targets<'a>(
    images: &'a DeviceBuffer,
    texts: &'a DeviceBuffer,
    target_weights: &'a Tensor,
    global_batch: usize,
) -> gpu::DeviceTargets<'a> {
    gpu::DeviceTargets {
        images: images.as_view().first_n(global_batch),
        texts: texts.as_view().first_n(global_batch),
        target_weights: target_weights.first_n(global_batch).expect_device(),
    }
}
