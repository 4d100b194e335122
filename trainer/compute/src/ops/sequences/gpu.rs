//! Rows of pooled tokens on a device: a block for each sequence.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::sequences::{Pooling, Sequences};

/// Threads of a block, which copy one row.
const ROW_THREADS: usize = 128;

/// Copies the rows of pooled tokens.
pub(super) fn gather_rows(
    sequences: Sequences<'_>,
    width: usize,
    all: DeviceView<'_>,
    pooled: &mut DeviceViewMut<'_>,
) {
    match sequences.pooling() {
        Pooling::AllTokens => pooled.copy_from(all),
        Pooling::FirstToken => {
            let device = pooled.device();
            KernelLaunch::for_dtype("take", all.dtype())
                .with_grid(sequences.sequence_count(), 1, 1)
                .with_threads(ROW_THREADS)
                .arg_input(all)
                .arg_output(pooled)
                .arg_u32(width)
                .arg_sequences(sequences)
                .launch_on(device);
        }
    }
}

/// Writes the rows of pooled tokens back to where they were, and zero to all others.
pub(super) fn scatter_rows(
    sequences: Sequences<'_>,
    width: usize,
    pooled: DeviceView<'_>,
    all: &mut DeviceViewMut<'_>,
) {
    match sequences.pooling() {
        Pooling::AllTokens => all.copy_from(pooled),
        Pooling::FirstToken => {
            // The kernel writes the rows of first tokens only.
            all.fill_zeros();
            let device = all.device();
            KernelLaunch::for_dtype("spread", pooled.dtype())
                .with_grid(sequences.sequence_count(), 1, 1)
                .with_threads(ROW_THREADS)
                .arg_input(pooled)
                .arg_output(all)
                .arg_u32(width)
                .arg_sequences(sequences)
                .launch_on(device);
        }
    }
}
