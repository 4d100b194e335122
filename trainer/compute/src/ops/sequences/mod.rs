//! Sequences of unequal length in one packed array, walked in parallel without padding.

pub mod gpu;

use crate::device::DeviceView;
use crate::tensor::{TensorView, TensorViewMut};

/// Whether every token of a sequence goes on, or only its first: both towers pool the first token,
/// so after the last attention nothing else is needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pooling {
    /// Every token.
    AllTokens,
    /// The first token.
    FirstToken,
}

/// Where the sequences of a batch lie: tokens `offsets[i]..offsets[i + 1]` are sequence `i`.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'a> {
    offsets: &'a [usize],
    pooling: Pooling,
    token_ids: &'a [u32],
    on_device: Option<DeviceSequenceView<'a>>,
}

/// The same offsets and ids in a device's memory.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSequenceView<'a> {
    /// Where sequences begin, one more than there are sequences.
    pub offsets: DeviceView<'a>,
    /// The id of every token, where sequences have padding.
    pub token_ids: Option<DeviceView<'a>>,
}

impl<'a> Sequences<'a> {
    /// Sequences at these offsets, all of whose tokens go on.
    pub fn new(offsets: &'a [usize]) -> Self {
        assert!(offsets.first() == Some(&0), "offsets start with 0");
        Self {
            offsets,
            pooling: Pooling::AllTokens,
            token_ids: &[],
            on_device: None,
        }
    }

    /// The same sequences of tokens with these ids, of which those of id 0 are padding.
    pub fn with_padding(self, ids: &'a [u32]) -> Self {
        Self {
            token_ids: ids,
            ..self
        }
    }

    /// The ids of a sequence with padding; `None` for one without.
    pub fn padded_token_ids(&self, sequence: usize) -> Option<&'a [u32]> {
        let ids = self
            .token_ids
            .get(self.offsets[sequence]..self.offsets[sequence + 1])?;
        ids.contains(&0).then_some(ids)
    }

    /// The id of every token, where sequences have padding.
    pub fn token_ids(&self) -> &'a [u32] {
        self.token_ids
    }

    /// The same sequences, known on a device, too.
    pub fn with_device(self, places: DeviceSequenceView<'a>) -> Self {
        Self {
            on_device: Some(places),
            ..self
        }
    }

    /// Whether a device is told of tokens that are padding.
    pub fn device_token_ids(&self) -> Option<DeviceView<'a>> {
        self.on_device.and_then(|places| places.token_ids)
    }

    /// Where a device finds them.
    #[expect(
        clippy::expect_used,
        reason = "whoever computes on a device says so before"
    )]
    pub fn expect_on_device(&self) -> DeviceSequenceView<'a> {
        self.on_device
            .expect("the sequences are known on the device")
    }

    /// The offsets.
    pub fn offsets(&self) -> &'a [usize] {
        self.offsets
    }

    /// What goes on.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// The length that all sequences have, if they have one.
    pub fn uniform_length(&self) -> Option<usize> {
        let length = self.offsets.get(1)?;
        self.offsets
            .windows(2)
            .all(|pair| pair[1] - pair[0] == *length)
            .then_some(*length)
    }

    /// The same sequences, of which `keep` goes on.
    pub fn with_pooling(self, keep: Pooling) -> Self {
        Self {
            pooling: keep,
            ..self
        }
    }

    /// How many sequences there are.
    pub fn sequence_count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// How many tokens there are.
    pub fn token_count(&self) -> usize {
        self.offsets[self.sequence_count()]
    }

    /// How many tokens go on.
    pub fn pooled_count(&self) -> usize {
        match self.pooling {
            Pooling::AllTokens => self.token_count(),
            Pooling::FirstToken => self.sequence_count(),
        }
    }

    /// Calls `f(sequence, parts)` for every sequence, in parallel, where the parts are the rows of
    /// `split` that belong to that sequence.
    pub fn par_for_each<S: SplitRows>(&self, split: S, f: impl Fn(usize, S) + Sync) {
        self.split_and_visit(0, self.sequence_count(), split, &f);
    }

    fn split_and_visit<S: SplitRows>(
        &self,
        from: usize,
        to: usize,
        split: S,
        f: &(impl Fn(usize, S) + Sync),
    ) {
        match to - from {
            0 => {}
            1 => f(from, split),
            count => {
                let middle = from + count / 2;
                let tokens = self.offsets[middle] - self.offsets[from];
                let kept = if self.pooling == Pooling::AllTokens {
                    tokens
                } else {
                    middle - from
                };

                let (left, right) = split.split_rows_at(tokens, kept);
                rayon::join(
                    || self.split_and_visit(from, middle, left, f),
                    || self.split_and_visit(middle, to, right, f),
                );
            }
        }
    }
}

/// Arrays that can be cut where a sequence ends.
pub trait SplitRows: Send + Sized {
    /// The parts before and after so many tokens, of which so many are kept.
    fn split_rows_at(self, tokens: usize, kept: usize) -> (Self, Self);
}

/// One row for each token.
#[derive(Debug)]
pub struct TokenRows<T>(pub T, pub usize);

/// One row for each token that goes on.
#[derive(Debug)]
pub struct PooledRows<T>(pub T, pub usize);

/// A slice that can be cut in two.
pub trait SplitSlice: Send + Sized {
    /// The parts before and after an index.
    fn split_slice_at(self, at: usize) -> (Self, Self);
}

impl SplitSlice for &[f32] {
    fn split_slice_at(self, at: usize) -> (Self, Self) {
        self.split_at(at)
    }
}

impl SplitSlice for &mut [f32] {
    fn split_slice_at(self, at: usize) -> (Self, Self) {
        self.split_at_mut(at)
    }
}

impl<T: SplitSlice> SplitRows for TokenRows<T> {
    fn split_rows_at(self, tokens: usize, _kept: usize) -> (Self, Self) {
        let (left, right) = self.0.split_slice_at(tokens * self.1);
        (Self(left, self.1), Self(right, self.1))
    }
}

impl<T: SplitSlice> SplitRows for PooledRows<T> {
    fn split_rows_at(self, _tokens: usize, kept: usize) -> (Self, Self) {
        let (left, right) = self.0.split_slice_at(kept * self.1);
        (Self(left, self.1), Self(right, self.1))
    }
}

impl<A: SplitRows, B: SplitRows> SplitRows for (A, B) {
    fn split_rows_at(self, tokens: usize, kept: usize) -> (Self, Self) {
        let a = self.0.split_rows_at(tokens, kept);
        let b = self.1.split_rows_at(tokens, kept);
        ((a.0, b.0), (a.1, b.1))
    }
}

/// Copies the rows that go on.
///
/// # Shapes
/// `all` [tokens, width], `kept` [kept, width].
pub fn gather_rows(
    sequences: Sequences<'_>,
    width: usize,
    all: TensorView<'_>,
    kept: TensorViewMut<'_>,
) {
    match kept {
        TensorViewMut::Host(kept) => gather_rows_host(sequences, width, all.expect_host(), kept),
        TensorViewMut::Device(mut kept) => {
            gpu::gather_rows(sequences, width, all.expect_device(), &mut kept)
        }
    }
}

fn gather_rows_host(sequences: Sequences<'_>, width: usize, all: &[f32], kept: &mut [f32]) {
    sequences.par_for_each(
        (TokenRows(all, width), PooledRows(kept, width)),
        |_, (all, kept)| {
            kept.0.copy_from_slice(&all.0[..kept.0.len()]);
        },
    );
}

/// Writes the rows that go on back to their places, and zero to all others: the backward of [`take`].
///
/// # Shapes
/// `kept` [kept, width], `all` [tokens, width].
pub fn scatter_rows(
    sequences: Sequences<'_>,
    width: usize,
    kept: TensorView<'_>,
    all: TensorViewMut<'_>,
) {
    match all {
        TensorViewMut::Host(all) => scatter_rows_host(sequences, width, kept.expect_host(), all),
        TensorViewMut::Device(mut all) => {
            gpu::scatter_rows(sequences, width, kept.expect_device(), &mut all)
        }
    }
}

fn scatter_rows_host(sequences: Sequences<'_>, width: usize, kept: &[f32], all: &mut [f32]) {
    sequences.par_for_each(
        (PooledRows(kept, width), TokenRows(all, width)),
        |_, (kept, all)| {
            let (first, rest) = all.0.split_at_mut(kept.0.len());
            first.copy_from_slice(kept.0);
            rest.fill(0.0);
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_is_given_its_own_rows() {
        let offsets = [0, 3, 4, 9];
        let mut rows = vec![0.0; 18];
        let sequences = Sequences::new(&offsets);
        sequences.par_for_each(TokenRows(&mut rows[..], 2), |i, rows| rows.0.fill(i as f32));
        assert_eq!(rows, [[0.0; 6].as_slice(), &[1.0; 2], &[2.0; 10]].concat());
    }

    #[test]
    fn what_is_taken_can_be_spread_again() {
        let offsets = [0, 2, 5, 6];
        let all = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        for (keep, kept, spread_again) in [
            (
                Pooling::FirstToken,
                vec![1.0, 3.0, 6.0],
                vec![1.0, 0.0, 3.0, 0.0, 0.0, 6.0],
            ),
            (Pooling::AllTokens, all.to_vec(), all.to_vec()),
        ] {
            let sequences = Sequences::new(&offsets).with_pooling(keep);
            let mut found = vec![9.0; kept.len()];
            let mut back = vec![9.0; 6];
            gather_rows(sequences, 1, TensorView::Host(&all), (&mut found).into());
            scatter_rows(sequences, 1, (&found).into(), (&mut back).into());
            assert_eq!((found, back), (kept, spread_again));
        }
    }
}
