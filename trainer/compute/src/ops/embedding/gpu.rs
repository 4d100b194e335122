//! Rows of tables by token.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::launch_arguments::max_sequence_len;
use crate::ops::sequences::Sequences;

/// The tables of a text tower.
///
/// # Shapes
/// `words` [vocabulary, width], `positions` [longest, width], `kind` [width].
#[derive(Clone, Copy, Debug)]
pub struct DeviceEmbeddingTables<'a> {
    /// A row for each entry of the vocabulary.
    pub words: DeviceView<'a>,
    /// A row for each place in a sequence.
    pub positions: DeviceView<'a>,
    /// Added to every token.
    pub token_type: DeviceView<'a>,
}

/// `y = words[id] + positions[place] + kind`.
///
/// # Shapes
/// `ids` [tokens], `y` [tokens, width].
pub fn forward(
    tables: DeviceEmbeddingTables<'_>,
    sequences: Sequences<'_>,
    ids: DeviceView<'_>,
    y: &mut DeviceViewMut<'_>,
) {
    let width = tables.token_type.len();
    let device = y.device();
    let launch = KernelLaunch::for_dtype("embedding_forward", y.as_view().dtype());
    let launch = launch
        .with_grid(sequences.sequence_count(), max_sequence_len(sequences), 1)
        .with_threads(128);

    let launch = launch
        .arg_input(tables.words)
        .arg_input(tables.positions)
        .arg_input(tables.token_type);

    launch
        .arg_input(ids)
        .arg_output(y)
        .arg_u32(width)
        .arg_sequences(sequences)
        .launch_on(device);
}

/// Adds rows of `dy` to the rows of the tables that they came from, in their order; that of padding
/// learns nothing.
///
/// # Shapes
/// As in [`forward`].
pub fn backward_words(
    ids: DeviceView<'_>,
    width: usize,
    dy: DeviceView<'_>,
    words: &mut DeviceViewMut<'_>,
) {
    let tokens = dy.len() / width;
    let device = words.device();
    let launch = KernelLaunch::for_dtype("embedding_words", dy.dtype()).with_grid(tokens, 1, 1);
    launch
        .arg_input(ids)
        .arg_input(dy)
        .arg_output(words)
        .arg_u32(tokens)
        .arg_u32(width)
        .launch_on(device);
}

/// Adds rows of `dy` to the rows of their places.
///
/// # Shapes
/// `dy` [tokens, width], `positions` [longest, width].
pub fn backward_positions(
    sequences: Sequences<'_>,
    width: usize,
    dy: DeviceView<'_>,
    positions: &mut DeviceViewMut<'_>,
) {
    let device = positions.device();
    let launch = KernelLaunch::for_dtype("embedding_positions", dy.dtype()).with_threads(128);
    let launch = launch.with_grid(max_sequence_len(sequences), width.div_ceil(128), 1);
    let launch = launch
        .arg_input(dy)
        .arg_output(positions)
        .arg_u32(sequences.sequence_count())
        .arg_u32(width);

    launch.arg_sequences(sequences).launch_on(device);
}
