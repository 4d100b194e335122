//! The softmax of the contrastive loss over rows of logits: statistics of each row, and gradients of the logits.
//! The loss itself, over both sides and all ranks, is `cnclip_nn::loss`.

mod cpu;
mod device_buffers;
mod gpu;
mod logits;
mod targets;

use crate::tensor::{Memory, TensorView, TensorViewMut, panic_mixed_memories};
use device_buffers::DeviceLossBuffers;
pub use logits::{compute_feature_gradients, compute_logits};
pub use targets::MatchTargets;

/// Statistics of one row of logits.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogitRowStats {
    /// ln Σ eˣ.
    pub log_sum: f32,
    /// `log_sum` less the target-weighted mean of the logits of its matches.
    pub cross_entropy: f64,
    /// Whether the nearest column is a match.
    pub is_hit: bool,
}

/// ln Σ eˣ of the logits of every row, and of every column.
///
/// # Shapes
/// Both `[global batch]`.
#[derive(Clone, Copy, Debug)]
pub struct LogSums<V> {
    /// Of the rows' samples.
    pub rows: V,
    /// Of the columns'.
    pub columns: V,
}

/// The matches of a global batch, where its logits are.
#[derive(Debug)]
pub struct LossTargets {
    /// The matches of the next batch: each sample matches itself alone, until others are given.
    pub matches: MatchTargets,
    /// Host memory needs none: there the matches are read in place.
    device_buffers: Option<DeviceLossBuffers>,
}

impl LossTargets {
    /// Memory for a global batch, of which `local_batch` samples are this rank's.
    pub fn new_in(memory: &Memory, global_batch: usize, local_batch: usize) -> Self {
        Self {
            matches: MatchTargets::new(global_batch),
            device_buffers: DeviceLossBuffers::new(memory, global_batch, local_batch),
        }
    }

    /// Copies the matches of a global batch to where its logits are. To be called once a batch, before the
    /// functions below.
    pub fn upload_matches(&mut self, global_batch: usize) {
        if let Some(buffers) = &mut self.device_buffers {
            buffers.upload_targets(&self.matches, global_batch);
        }
    }

    /// Completes `scale_gradients` after [`logits_to_gradients`]. Waits for a device.
    pub fn download_scale_gradients(&self, scale_gradients: &mut [f32]) {
        if let Some(buffers) = &self.device_buffers {
            buffers.download_scale_gradients(scale_gradients);
        }
    }
}

/// Computes the statistics of each row, of which the first is that of sample `first`. Waits for a device.
///
/// # Shapes
/// `logits` `[rows, global batch]`, `row_stats` `[rows]`
pub fn row_statistics(
    logits: TensorView<'_>,
    first: usize,
    global_batch: usize,
    targets: &mut LossTargets,
    row_stats: &mut [LogitRowStats],
) {
    match (logits, &mut targets.device_buffers) {
        (TensorView::Host(logits), None) => {
            cpu::row_statistics(logits, first, global_batch, &targets.matches, row_stats);
        }
        (TensorView::Device(logits), Some(buffers)) => {
            buffers.row_statistics(logits, first, global_batch, row_stats);
        }
        _ => panic_mixed_memories(),
    }
}

/// Overwrites logits with their gradients, and computes each row's part of the gradient of the logit scale's
/// logarithm: those of a device are there after [`LossTargets::download_scale_gradients`].
///
/// # Shapes
/// `logits` `[rows, global batch]`, `scale_gradients` `[rows]`
pub fn logits_to_gradients(
    logits: TensorViewMut<'_>,
    first: usize,
    log_sums: LogSums<&[f32]>,
    targets: &mut LossTargets,
    scale_gradients: &mut [f32],
) {
    match (logits, &mut targets.device_buffers) {
        (TensorViewMut::Host(logits), None) => {
            let matches = &targets.matches;
            cpu::logits_to_gradients(logits, first, log_sums, matches, scale_gradients);
        }
        (TensorViewMut::Device(mut logits), Some(buffers)) => {
            buffers.logits_to_gradients(&mut logits, first, log_sums);
        }
        _ => panic_mixed_memories(),
    }
}
