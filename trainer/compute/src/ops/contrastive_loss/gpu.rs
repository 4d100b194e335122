//! Launches of the kernels.

use super::LogSums;
use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Which samples match each other: those whose image or whose text is in the same group.
#[derive(Clone, Copy)]
pub(super) struct DeviceTargets<'a> {
    /// The group of the image of each sample.
    pub(super) images: DeviceView<'a>,
    /// The group of its text.
    pub(super) texts: DeviceView<'a>,
    /// The target probability of each match of a sample.
    pub(super) target_weights: DeviceView<'a>,
}

/// Values that [`row_statistics`] writes of each row.
pub(super) const STATISTICS_PER_ROW: usize = 3;

/// Writes of each row, of which the first is that of sample `first`: ln Σ eˣ, the target-weighted mean of its
/// matches' logits, and whether the nearest column is a match.
///
/// # Shapes
/// `logits` `[rows, global batch]`, `row_stats` `[rows, 3]`
pub(super) fn row_statistics(
    logits: DeviceView<'_>,
    first: usize,
    global_batch: usize,
    targets: DeviceTargets<'_>,
    row_stats: &mut DeviceViewMut<'_>,
) {
    let device = row_stats.device();
    KernelLaunch::new("loss_rows")
        .with_grid(logits.len() / global_batch, 1, 1)
        .arg_input(logits)
        .arg_input(targets.images)
        .arg_input(targets.texts)
        .arg_input(targets.target_weights)
        .arg_output(row_stats)
        .arg_u32(first)
        .arg_u32(global_batch)
        .launch_on(device);
}

/// Overwrites logits with their gradients, and writes each row's part of the gradient of the logit scale's
/// logarithm.
///
/// # Shapes
/// `logits` `[rows, global batch]`, both log-sums `[global batch]`, `scale_gradients` `[rows]`
pub(super) fn logits_to_gradients(
    logits: &mut DeviceViewMut<'_>,
    first: usize,
    log_sums: LogSums<DeviceView<'_>>,
    targets: DeviceTargets<'_>,
    scale_gradients: &mut DeviceViewMut<'_>,
) {
    let device = logits.device();
    let global_batch = log_sums.columns.len();
    KernelLaunch::new("loss_differentiate")
        .with_grid(logits.len() / global_batch, 1, 1)
        .arg_output(logits)
        .arg_input(log_sums.rows)
        .arg_input(log_sums.columns)
        .arg_input(targets.images)
        .arg_input(targets.texts)
        .arg_input(targets.target_weights)
        .arg_output(scale_gradients)
        .arg_u32(first)
        .arg_u32(global_batch)
        // Half for each direction, and the mean over the global batch.
        .arg_f32(0.5 / global_batch as f32)
        .launch_on(device);
}
