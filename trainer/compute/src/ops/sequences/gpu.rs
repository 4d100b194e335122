//! Rows that go on.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::sequences::{Pooling, Sequences};

/// Copies the rows that go on.
///
/// # Shapes
/// `all` [tokens, width], `kept` [kept, width].
pub fn gather_rows(
    sequences: Sequences<'_>,
    width: usize,
    all: DeviceView<'_>,
    kept: &mut DeviceViewMut<'_>,
) {
    match sequences.pooling() {
        Pooling::AllTokens => kept.copy_from(all),
        Pooling::FirstToken => {
            let device = kept.device();
            let count = sequences.sequence_count();
            let launch = KernelLaunch::for_dtype("take", all.dtype())
                .with_grid(count, 1, 1)
                .with_threads(128);

            launch
                .arg_input(all)
                .arg_output(kept)
                .arg_u32(width)
                .arg_sequences(sequences)
                .launch_on(device);
        }
    }
}

/// Writes the rows that go on back to their places, and zero to all others: the backward of [`take`].
///
/// # Shapes
/// `kept` [kept, width], `all` [tokens, width].
pub fn scatter_rows(
    sequences: Sequences<'_>,
    width: usize,
    kept: DeviceView<'_>,
    all: &mut DeviceViewMut<'_>,
) {
    match sequences.pooling() {
        Pooling::AllTokens => all.copy_from(kept),
        Pooling::FirstToken => {
            all.fill_zeros();
            let device = all.device();
            let count = sequences.sequence_count();
            let launch = KernelLaunch::for_dtype("spread", kept.dtype())
                .with_grid(count, 1, 1)
                .with_threads(128);

            launch
                .arg_input(kept)
                .arg_output(all)
                .arg_u32(width)
                .arg_sequences(sequences)
                .launch_on(device);
        }
    }
}
