//! Arguments that several kernels take: sequences and dropout masks, as `kernels/common.cuh` reads them.

use crate::device::KernelLaunch;
use crate::ops::dropout::Dropout;
use crate::ops::sequences::{Pooling, Sequences};

impl KernelLaunch {
    /// Three arguments: the offsets of sequences, or null where all have one length; that length; whether
    /// only first tokens are pooled.
    pub(in crate::ops) fn arg_sequences(self, sequences: Sequences<'_>) -> Self {
        let length = sequences.uniform_length();
        let offsets = length
            .is_none()
            .then(|| sequences.expect_on_device().offsets);
        let first_only = sequences.pooling() == Pooling::FirstToken;
        // The 0 below is never read: without a common length there are offsets.
        self.arg_input_or_null(offsets)
            .arg_u32(length.unwrap_or(0))
            .arg_u32(first_only.into())
    }

    /// Four arguments from which a kernel computes the masks of every sample.
    pub(in crate::ops) fn arg_dropout(self, dropout: Dropout) -> Self {
        let parameters = dropout.kernel_parameters();
        self.arg_u64(parameters.key)
            .arg_u64(parameters.first_sample)
            .arg_u32(parameters.dropped_below as usize)
            .arg_f32(parameters.scale)
    }
}

/// Tokens of the longest sequence.
pub(in crate::ops) fn max_sequence_len(sequences: Sequences<'_>) -> usize {
    sequences
        .offsets()
        .windows(2)
        .map(|bounds| bounds[1] - bounds[0])
        .max()
        .unwrap_or(0)
}

/// Pooled rows of the longest sequence.
pub(in crate::ops) fn max_pooled_rows(sequences: Sequences<'_>) -> usize {
    if sequences.pooling() == Pooling::FirstToken {
        1
    } else {
        max_sequence_len(sequences)
    }
}
