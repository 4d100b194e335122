//! Dropout with the masks of [`crate::ops::dropout`].

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::dropout::Dropout;
use crate::ops::launch_arguments::max_pooled_rows;
use crate::ops::sequences::Sequences;

/// Numbers that one block takes.
const VALUES_PER_BLOCK: usize = 256 * 8;

/// `y = mask(y) + residual`.
///
/// # Shapes
/// `y`, `residual` [kept, width].
pub fn mask_and_add(
    dropout: Dropout,
    sequences: Sequences<'_>,
    width: usize,
    y: &mut DeviceViewMut<'_>,
    residual: DeviceView<'_>,
) {
    launch_dropout("dropout_add", (dropout, sequences, width), residual, y);
}

/// `y = mask(x)`: forward, and backward alike.
///
/// # Shapes
/// `x`, `y` [kept, width].
pub fn apply_mask(
    dropout: Dropout,
    sequences: Sequences<'_>,
    width: usize,
    x: DeviceView<'_>,
    y: &mut DeviceViewMut<'_>,
) {
    if dropout.is_active() {
        launch_dropout("dropout_apply", (dropout, sequences, width), x, y);
    } else {
        y.copy_from(x);
    }
}

fn launch_dropout(
    name: &str,
    (dropout, sequences, width): (Dropout, Sequences<'_>, usize),
    x: DeviceView<'_>,
    y: &mut DeviceViewMut<'_>,
) {
    let device = y.device();
    let blocks = (max_pooled_rows(sequences) * width).div_ceil(VALUES_PER_BLOCK);
    let launch =
        KernelLaunch::for_dtype(name, x.dtype()).with_grid(sequences.sequence_count(), blocks, 1);
    launch
        .arg_input(x)
        .arg_output(y)
        .arg_u32(width)
        .arg_sequences(sequences)
        .arg_dropout(dropout)
        .launch_on(device);
}
