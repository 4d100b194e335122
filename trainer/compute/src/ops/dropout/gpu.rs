//! Dropout on a device: the kernel hashes the same (key, sample, element) as the CPU.

use super::Dropout;
use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::launch_arguments::max_pooled_rows;
use crate::ops::sequences::Sequences;

/// Elements that one block takes: eight for each of its 256 threads.
const ELEMENTS_PER_BLOCK: usize = 256 * 8;

/// `y = mask(y) + residual`.
pub(super) fn mask_and_add(
    dropout: Dropout,
    sequences: Sequences<'_>,
    width: usize,
    y: &mut DeviceViewMut<'_>,
    residual: DeviceView<'_>,
) {
    let device = y.device();
    dropout_kernel("dropout_add", dropout, sequences, width, residual, y).launch_on(device);
}

/// `y = mask(x)`.
pub(super) fn apply_mask(
    dropout: Dropout,
    sequences: Sequences<'_>,
    width: usize,
    x: DeviceView<'_>,
    y: &mut DeviceViewMut<'_>,
) {
    if dropout.is_active() {
        let device = y.device();
        dropout_kernel("dropout_apply", dropout, sequences, width, x, y).launch_on(device);
    } else {
        y.copy_from(x);
    }
}

/// Blocks of 2048 elements for every sequence; the grid is as wide as the longest needs.
fn dropout_kernel(
    name: &str,
    dropout: Dropout,
    sequences: Sequences<'_>,
    width: usize,
    x: DeviceView<'_>,
    y: &mut DeviceViewMut<'_>,
) -> KernelLaunch {
    let blocks = (max_pooled_rows(sequences) * width).div_ceil(ELEMENTS_PER_BLOCK);
    KernelLaunch::for_dtype(name, x.dtype())
        .with_grid(sequences.sequence_count(), blocks, 1)
        .arg_input(x)
        .arg_output(y)
        .arg_u32(width)
        .arg_sequences(sequences)
        .arg_dropout(dropout)
}
