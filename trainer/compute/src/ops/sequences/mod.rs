//! Sequences of unequal length in one packed array, walked in parallel without padding.

mod cpu;
mod gpu;

use crate::device::DeviceView;
use crate::tensor::{TensorView, TensorViewMut};

/// Which tokens of a sequence the following layers are given: both towers pool the first token, so after
/// the last attention nothing else is needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pooling {
    /// Every token.
    AllTokens,
    /// The first token.
    FirstToken,
}

/// Where the sequences of a batch lie: tokens `offsets[i]..offsets[i + 1]` are sequence `i`.
///
/// ```
/// use cnclip_compute::ops::sequences::{Pooling, Sequences, gather_rows};
///
/// let sequences = Sequences::new(&[0, 2, 3]).with_pooling(Pooling::FirstToken);
/// assert_eq!((sequences.sequence_count(), sequences.token_count()), (2, 3));
///
/// let all = vec![1.0, 2.0, 3.0];
/// let mut pooled = vec![0.0; sequences.pooled_count()];
/// gather_rows(sequences, 1, (&all).into(), (&mut pooled).into());
/// assert_eq!(pooled, [1.0, 3.0]);
/// ```
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
    /// Sequences at these offsets, all of whose tokens are pooled.
    pub fn new(offsets: &'a [usize]) -> Self {
        assert!(offsets.first() == Some(&0), "the first offset is not 0");
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
        // None spares attention the mask where a sequence has no padding.
        ids.contains(&0).then_some(ids)
    }

    /// The id of every token, where sequences have padding.
    pub fn token_ids(&self) -> &'a [u32] {
        self.token_ids
    }

    /// The same sequences with a copy of their offsets and ids in a device's memory.
    pub fn with_device(self, on_device: DeviceSequenceView<'a>) -> Self {
        Self {
            on_device: Some(on_device),
            ..self
        }
    }

    /// The ids in a device's memory, where sequences have padding.
    pub fn device_token_ids(&self) -> Option<DeviceView<'a>> {
        self.on_device.and_then(|on_device| on_device.token_ids)
    }

    /// The offsets and ids in a device's memory.
    ///
    /// # Panics
    /// Without [`Sequences::with_device`].
    #[expect(
        clippy::expect_used,
        reason = "a tower that computes on a device uploads them first"
    )]
    pub fn expect_on_device(&self) -> DeviceSequenceView<'a> {
        self.on_device
            .expect("the sequences have a copy in the device's memory")
    }

    /// The offsets.
    pub fn offsets(&self) -> &'a [usize] {
        self.offsets
    }

    /// Which tokens are pooled.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// The length that all sequences have, if they have one.
    pub fn uniform_length(&self) -> Option<usize> {
        let length = self.offsets.get(1)?;
        self.offsets
            .windows(2)
            .all(|bounds| bounds[1] - bounds[0] == *length)
            .then_some(*length)
    }

    /// The same sequences with other pooling.
    pub fn with_pooling(self, pooling: Pooling) -> Self {
        Self { pooling, ..self }
    }

    /// How many sequences there are.
    pub fn sequence_count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// How many tokens there are.
    pub fn token_count(&self) -> usize {
        self.offsets[self.sequence_count()]
    }

    /// How many tokens are pooled.
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
            // Halves, not a loop over sequences: each half of the arrays goes to its own task without
            // a list of slices, which would be memory for every call.
            count => {
                let middle = from + count / 2;
                let tokens = self.offsets[middle] - self.offsets[from];
                let pooled = if self.pooling == Pooling::AllTokens {
                    tokens
                } else {
                    middle - from
                };

                let (left, right) = split.split_rows_at(tokens, pooled);
                rayon::join(
                    || self.split_and_visit(from, middle, left, f),
                    || self.split_and_visit(middle, to, right, f),
                );
            }
        }
    }
}

/// Arrays that can be split where a sequence ends.
pub trait SplitRows: Send + Sized {
    /// The parts before and after `tokens` tokens, of which `pooled` are pooled.
    fn split_rows_at(self, tokens: usize, pooled: usize) -> (Self, Self);
}

/// One row for each token.
#[derive(Debug)]
pub struct TokenRows<T>(pub T, pub usize);

/// One row for each pooled token.
#[derive(Debug)]
pub struct PooledRows<T>(pub T, pub usize);

/// A slice that can be split in two.
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
    fn split_rows_at(self, tokens: usize, _pooled: usize) -> (Self, Self) {
        let (left, right) = self.0.split_slice_at(tokens * self.1);
        (Self(left, self.1), Self(right, self.1))
    }
}

impl<T: SplitSlice> SplitRows for PooledRows<T> {
    fn split_rows_at(self, _tokens: usize, pooled: usize) -> (Self, Self) {
        let (left, right) = self.0.split_slice_at(pooled * self.1);
        (Self(left, self.1), Self(right, self.1))
    }
}

impl<A: SplitRows, B: SplitRows> SplitRows for (A, B) {
    fn split_rows_at(self, tokens: usize, pooled: usize) -> (Self, Self) {
        let a = self.0.split_rows_at(tokens, pooled);
        let b = self.1.split_rows_at(tokens, pooled);
        ((a.0, b.0), (a.1, b.1))
    }
}

/// Copies the rows of pooled tokens.
///
/// # Shapes
/// `all` `[tokens, width]`, `pooled` `[pooled tokens, width]`.
pub fn gather_rows(
    sequences: Sequences<'_>,
    width: usize,
    all: TensorView<'_>,
    pooled: TensorViewMut<'_>,
) {
    match pooled {
        TensorViewMut::Host(pooled) => {
            cpu::gather_rows(sequences, width, all.expect_host(), pooled)
        }
        TensorViewMut::Device(mut pooled) => {
            gpu::gather_rows(sequences, width, all.expect_device(), &mut pooled)
        }
    }
}

/// Writes the rows of pooled tokens back to where they were, and zero to all others: the backward of
/// [`gather_rows`].
///
/// # Shapes
/// `pooled` `[pooled tokens, width]`, `all` `[tokens, width]`.
pub fn scatter_rows(
    sequences: Sequences<'_>,
    width: usize,
    pooled: TensorView<'_>,
    all: TensorViewMut<'_>,
) {
    match all {
        TensorViewMut::Host(all) => cpu::scatter_rows(sequences, width, pooled.expect_host(), all),
        TensorViewMut::Device(mut all) => {
            gpu::scatter_rows(sequences, width, pooled.expect_device(), &mut all)
        }
    }
}
