//! Dropout with the masks of [`crate::ops::dropout`].

use crate::device::{Launch, Span, SpanMut};
use crate::ops::dropout::Dropout;
use crate::ops::rows::Sequences;
use crate::ops::sequences::most_kept;

/// Numbers that one block takes.
const BLOCK: usize = 256 * 8;

/// `y = mask(y) + residual`.
///
/// # Shapes
/// `y`, `residual` [kept, width].
pub fn add(
    dropout: Dropout,
    sequences: Sequences<'_>,
    width: usize,
    y: &mut SpanMut<'_>,
    residual: Span<'_>,
) {
    run("dropout_add", (dropout, sequences, width), residual, y);
}

/// `y = mask(x)`: forward, and backward alike.
///
/// # Shapes
/// `x`, `y` [kept, width].
pub fn apply(
    dropout: Dropout,
    sequences: Sequences<'_>,
    width: usize,
    x: Span<'_>,
    y: &mut SpanMut<'_>,
) {
    if dropout.is_active() {
        run("dropout_apply", (dropout, sequences, width), x, y);
    } else {
        y.copy_from(x);
    }
}

fn run(
    name: &str,
    (dropout, sequences, width): (Dropout, Sequences<'_>, usize),
    x: Span<'_>,
    y: &mut SpanMut<'_>,
) {
    let device = y.device();
    let blocks = (most_kept(sequences) * width).div_ceil(BLOCK);
    let launch = Launch::typed(name, x.format()).grid(sequences.count(), blocks, 1);
    launch
        .read(x)
        .write(y)
        .whole(width)
        .sequences(sequences)
        .masks(dropout)
        .run(device);
}
