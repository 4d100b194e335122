//! What kernels are told of sequences and of masks.

use crate::device::KernelLaunch;
use crate::ops::dropout::Dropout;
use crate::ops::sequences::{Pooling, Sequences};

impl KernelLaunch {
    /// Where sequences begin, or null; the length that all have without it; whether only first tokens
    /// go on.
    pub(in crate::ops) fn arg_sequences(self, sequences: Sequences<'_>) -> Self {
        let length = sequences.uniform_length();
        let offsets = length
            .is_none()
            .then(|| sequences.expect_on_device().offsets);
        let first = sequences.pooling() == Pooling::FirstToken;
        self.arg_input_or_null(offsets)
            .arg_u32(length.unwrap_or(0))
            .arg_u32(first.into())
    }

    /// What decides over masks.
    pub(in crate::ops) fn arg_dropout(self, dropout: Dropout) -> Self {
        let (key, first_sample, dropped_below, scale) = dropout.device_parameters();
        self.arg_u64(key)
            .arg_u64(first_sample)
            .arg_u32(dropped_below as usize)
            .arg_f32(scale)
    }
}

/// Tokens of the longest sequence.
pub(in crate::ops) fn max_sequence_len(sequences: Sequences<'_>) -> usize {
    sequences
        .offsets()
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or(0)
}

/// Rows of the sequence of which most go on.
pub(in crate::ops) fn max_pooled_rows(sequences: Sequences<'_>) -> usize {
    if sequences.pooling() == Pooling::FirstToken {
        1
    } else {
        max_sequence_len(sequences)
    }
}
