//! Rows of tables by token.

use crate::device::{Launch, Span, SpanMut};
use crate::ops::rows::Sequences;
use crate::ops::sequences::longest;

/// The tables of a text tower.
///
/// # Shapes
/// `words` [vocabulary, width], `positions` [longest, width], `kind` [width].
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// A row for each entry of the vocabulary.
    pub words: Span<'a>,
    /// A row for each place in a sequence.
    pub positions: Span<'a>,
    /// Added to every token.
    pub kind: Span<'a>,
}

/// `y = words[id] + positions[place] + kind`.
///
/// # Shapes
/// `ids` [tokens], `y` [tokens, width].
pub fn forward(tables: Tables<'_>, sequences: Sequences<'_>, ids: Span<'_>, y: &mut SpanMut<'_>) {
    let width = tables.kind.len();
    let device = y.device();
    let launch = Launch::typed("embedding_forward", y.span().format());
    let launch = launch
        .grid(sequences.count(), longest(sequences), 1)
        .threads(128);

    let launch = launch
        .read(tables.words)
        .read(tables.positions)
        .read(tables.kind);

    launch
        .read(ids)
        .write(y)
        .whole(width)
        .sequences(sequences)
        .run(device);
}

/// Adds rows of `dy` to the rows of the tables that they came from, in their order; that of padding
/// learns nothing.
///
/// # Shapes
/// As in [`forward`].
pub fn backward_words(ids: Span<'_>, width: usize, dy: Span<'_>, words: &mut SpanMut<'_>) {
    let tokens = dy.len() / width;
    let device = words.device();
    let launch = Launch::typed("embedding_words", dy.format()).grid(tokens, 1, 1);
    launch
        .read(ids)
        .read(dy)
        .write(words)
        .whole(tokens)
        .whole(width)
        .run(device);
}

/// Adds rows of `dy` to the rows of their places.
///
/// # Shapes
/// `dy` [tokens, width], `positions` [longest, width].
pub fn backward_positions(
    sequences: Sequences<'_>,
    width: usize,
    dy: Span<'_>,
    positions: &mut SpanMut<'_>,
) {
    let device = positions.device();
    let launch = Launch::typed("embedding_positions", dy.format()).threads(128);
    let launch = launch.grid(longest(sequences), width.div_ceil(128), 1);
    let launch = launch
        .read(dy)
        .write(positions)
        .whole(sequences.count())
        .whole(width);

    launch.sequences(sequences).run(device);
}
