//! Rows that go on.

use crate::device::{Launch, Span, SpanMut};
use crate::ops::rows::{Keep, Sequences};

/// Copies the rows that go on.
///
/// # Shapes
/// `all` [tokens, width], `kept` [kept, width].
pub fn take(sequences: Sequences<'_>, width: usize, all: Span<'_>, kept: &mut SpanMut<'_>) {
    match sequences.keep() {
        Keep::All => kept.copy_from(all),
        Keep::First => {
            let device = kept.device();
            let count = sequences.count();
            let launch = Launch::typed("take", all.format())
                .grid(count, 1, 1)
                .threads(128);

            launch
                .read(all)
                .write(kept)
                .whole(width)
                .sequences(sequences)
                .run(device);
        }
    }
}

/// Writes the rows that go on back to their places, and zero to all others: the backward of [`take`].
///
/// # Shapes
/// `kept` [kept, width], `all` [tokens, width].
pub fn spread(sequences: Sequences<'_>, width: usize, kept: Span<'_>, all: &mut SpanMut<'_>) {
    match sequences.keep() {
        Keep::All => all.copy_from(kept),
        Keep::First => {
            all.clear();
            let device = all.device();
            let count = sequences.count();
            let launch = Launch::typed("spread", kept.format())
                .grid(count, 1, 1)
                .threads(128);

            launch
                .read(kept)
                .write(all)
                .whole(width)
                .sequences(sequences)
                .run(device);
        }
    }
}
