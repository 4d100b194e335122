//! What kernels are told of sequences and of masks.

use crate::device::Launch;
use crate::ops::dropout::Dropout;
use crate::ops::rows::{Keep, Sequences};

impl Launch {
    /// Where sequences begin, or null; the length that all have without it; whether only first tokens
    /// go on.
    pub(in crate::ops) fn sequences(self, sequences: Sequences<'_>) -> Self {
        let length = sequences.length();
        let offsets = length.is_none().then(|| sequences.places().offsets);
        let first = sequences.keep() == Keep::First;
        self.read_or_null(offsets)
            .whole(length.unwrap_or(0))
            .whole(first.into())
    }

    /// What decides over masks.
    pub(in crate::ops) fn masks(self, dropout: Dropout) -> Self {
        let (key, first_sample, dropped_below, scale) = dropout.rule();
        self.long(key)
            .long(first_sample)
            .whole(dropped_below as usize)
            .real(scale)
    }
}

/// Tokens of the longest sequence.
pub(in crate::ops) fn longest(sequences: Sequences<'_>) -> usize {
    sequences
        .offsets()
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or(0)
}

/// Rows of the sequence of which most go on.
pub(in crate::ops) fn most_kept(sequences: Sequences<'_>) -> usize {
    if sequences.keep() == Keep::First {
        1
    } else {
        longest(sequences)
    }
}
