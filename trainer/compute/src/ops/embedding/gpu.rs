//! Embedding of tokens on a device.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::launch_arguments::max_sequence_len;
use crate::ops::sequences::Sequences;

/// The tables in a device's memory.
#[derive(Clone, Copy)]
pub(super) struct DeviceTables<'a> {
    pub(super) words: DeviceView<'a>,
    pub(super) positions: DeviceView<'a>,
    pub(super) token_type: DeviceView<'a>,
}

/// Threads of a block that walk along one row, eight numbers each.
const ROW_THREADS: usize = 128;

/// A block for each token.
pub(super) fn forward(
    tables: DeviceTables<'_>,
    sequences: Sequences<'_>,
    ids: DeviceView<'_>,
    y: &mut DeviceViewMut<'_>,
) {
    let width = tables.token_type.len();
    let device = y.device();
    KernelLaunch::for_dtype("embedding_forward", y.as_view().dtype())
        .with_grid(sequences.sequence_count(), max_sequence_len(sequences), 1)
        .with_threads(ROW_THREADS)
        .arg_input(tables.words)
        .arg_input(tables.positions)
        .arg_input(tables.token_type)
        .arg_input(ids)
        .arg_output(y)
        .arg_u32(width)
        .arg_sequences(sequences)
        .launch_on(device);
}

/// A block for each token; the first token of an id adds the rows of all that have it.
pub(super) fn backward_words(
    ids: DeviceView<'_>,
    width: usize,
    dy: DeviceView<'_>,
    words: &mut DeviceViewMut<'_>,
) {
    let tokens = dy.len() / width;
    let device = words.device();
    // With the default of 256 threads, for which the kernel's shared arrays are declared.
    KernelLaunch::for_dtype("embedding_words", dy.dtype())
        .with_grid(tokens, 1, 1)
        .arg_input(ids)
        .arg_input(dy)
        .arg_output(words)
        .arg_u32(tokens)
        .arg_u32(width)
        .launch_on(device);
}

/// A block for each position and 128 columns.
pub(super) fn backward_positions(
    sequences: Sequences<'_>,
    width: usize,
    dy: DeviceView<'_>,
    positions: &mut DeviceViewMut<'_>,
) {
    let device = positions.device();
    KernelLaunch::for_dtype("embedding_positions", dy.dtype())
        .with_threads(ROW_THREADS)
        .with_grid(max_sequence_len(sequences), width.div_ceil(ROW_THREADS), 1)
        .arg_input(dy)
        .arg_output(positions)
        .arg_u32(sequences.sequence_count())
        .arg_u32(width)
        .arg_sequences(sequences)
        .launch_on(device);
}
