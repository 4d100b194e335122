//! Sequences of unequal length in one packed array, walked in parallel without padding.

pub mod gpu;

use crate::device::Span;
use crate::tensor::{View, ViewMut};

/// Whether every token of a sequence goes on, or only its first: both towers pool the first token,
/// so after the last attention nothing else is needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// Every token.
    All,
    /// The first token.
    First,
}

/// Where the sequences of a batch lie: tokens `offsets[i]..offsets[i + 1]` are sequence `i`.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'a> {
    offsets: &'a [usize],
    keep: Keep,
    ids: &'a [u32],
    places: Option<Places<'a>>,
}

/// The same offsets and ids in a device's memory.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Where sequences begin, one more than there are sequences.
    pub offsets: Span<'a>,
    /// The id of every token, where sequences have padding.
    pub ids: Option<Span<'a>>,
}

impl<'a> Sequences<'a> {
    /// Sequences at these offsets, all of whose tokens go on.
    pub fn new(offsets: &'a [usize]) -> Self {
        assert!(offsets.first() == Some(&0), "offsets start with 0");
        Self {
            offsets,
            keep: Keep::All,
            ids: &[],
            places: None,
        }
    }

    /// The same sequences of tokens with these ids, of which those of id 0 are padding.
    pub fn padded(self, ids: &'a [u32]) -> Self {
        Self { ids, ..self }
    }

    /// The ids of a sequence with padding; `None` for one without.
    pub fn padding(&self, sequence: usize) -> Option<&'a [u32]> {
        let ids = self
            .ids
            .get(self.offsets[sequence]..self.offsets[sequence + 1])?;
        ids.contains(&0).then_some(ids)
    }

    /// The id of every token, where sequences have padding.
    pub fn ids(&self) -> &'a [u32] {
        self.ids
    }

    /// The same sequences, known on a device, too.
    pub fn on(self, places: Places<'a>) -> Self {
        Self {
            places: Some(places),
            ..self
        }
    }

    /// Whether a device is told of tokens that are padding.
    pub fn padded_on_device(&self) -> Option<Span<'a>> {
        self.places.and_then(|places| places.ids)
    }

    /// Where a device finds them.
    #[expect(
        clippy::expect_used,
        reason = "whoever computes on a device says so before"
    )]
    pub fn places(&self) -> Places<'a> {
        self.places.expect("the sequences are known on the device")
    }

    /// The offsets.
    pub fn offsets(&self) -> &'a [usize] {
        self.offsets
    }

    /// What goes on.
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// The length that all sequences have, if they have one.
    pub fn length(&self) -> Option<usize> {
        let length = self.offsets.get(1)?;
        self.offsets
            .windows(2)
            .all(|pair| pair[1] - pair[0] == *length)
            .then_some(*length)
    }

    /// The same sequences, of which `keep` goes on.
    pub fn keeping(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// How many sequences there are.
    pub fn count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.offsets[self.count()]
    }

    /// How many tokens go on.
    pub fn kept(&self) -> usize {
        match self.keep {
            Keep::All => self.tokens(),
            Keep::First => self.count(),
        }
    }

    /// Calls `f(sequence, parts)` for every sequence, in parallel, where the parts are the rows of
    /// `split` that belong to that sequence.
    pub fn each<S: Split>(&self, split: S, f: impl Fn(usize, S) + Sync) {
        self.walk(0, self.count(), split, &f);
    }

    fn walk<S: Split>(&self, from: usize, to: usize, split: S, f: &(impl Fn(usize, S) + Sync)) {
        match to - from {
            0 => {}
            1 => f(from, split),
            count => {
                let middle = from + count / 2;
                let tokens = self.offsets[middle] - self.offsets[from];
                let kept = if self.keep == Keep::All {
                    tokens
                } else {
                    middle - from
                };

                let (left, right) = split.split(tokens, kept);
                rayon::join(
                    || self.walk(from, middle, left, f),
                    || self.walk(middle, to, right, f),
                );
            }
        }
    }
}

/// Arrays that can be cut where a sequence ends.
pub trait Split: Send + Sized {
    /// The parts before and after so many tokens, of which so many are kept.
    fn split(self, tokens: usize, kept: usize) -> (Self, Self);
}

/// One row for each token.
#[derive(Debug)]
pub struct Tokens<T>(pub T, pub usize);

/// One row for each token that goes on.
#[derive(Debug)]
pub struct Kept<T>(pub T, pub usize);

/// A slice that can be cut in two.
pub trait Slice: Send + Sized {
    /// The parts before and after an index.
    fn cut(self, at: usize) -> (Self, Self);
}

impl Slice for &[f32] {
    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at(at)
    }
}

impl Slice for &mut [f32] {
    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at_mut(at)
    }
}

impl<T: Slice> Split for Tokens<T> {
    fn split(self, tokens: usize, _kept: usize) -> (Self, Self) {
        let (left, right) = self.0.cut(tokens * self.1);
        (Self(left, self.1), Self(right, self.1))
    }
}

impl<T: Slice> Split for Kept<T> {
    fn split(self, _tokens: usize, kept: usize) -> (Self, Self) {
        let (left, right) = self.0.cut(kept * self.1);
        (Self(left, self.1), Self(right, self.1))
    }
}

impl<A: Split, B: Split> Split for (A, B) {
    fn split(self, tokens: usize, kept: usize) -> (Self, Self) {
        let a = self.0.split(tokens, kept);
        let b = self.1.split(tokens, kept);
        ((a.0, b.0), (a.1, b.1))
    }
}

/// Copies the rows that go on.
///
/// # Shapes
/// `all` [tokens, width], `kept` [kept, width].
pub fn take(sequences: Sequences<'_>, width: usize, all: View<'_>, kept: ViewMut<'_>) {
    match kept {
        ViewMut::Host(kept) => take_host(sequences, width, all.host(), kept),
        ViewMut::Device(mut kept) => gpu::take(sequences, width, all.device(), &mut kept),
    }
}

fn take_host(sequences: Sequences<'_>, width: usize, all: &[f32], kept: &mut [f32]) {
    sequences.each((Tokens(all, width), Kept(kept, width)), |_, (all, kept)| {
        kept.0.copy_from_slice(&all.0[..kept.0.len()]);
    });
}

/// Writes the rows that go on back to their places, and zero to all others: the backward of [`take`].
///
/// # Shapes
/// `kept` [kept, width], `all` [tokens, width].
pub fn spread(sequences: Sequences<'_>, width: usize, kept: View<'_>, all: ViewMut<'_>) {
    match all {
        ViewMut::Host(all) => spread_host(sequences, width, kept.host(), all),
        ViewMut::Device(mut all) => gpu::spread(sequences, width, kept.device(), &mut all),
    }
}

fn spread_host(sequences: Sequences<'_>, width: usize, kept: &[f32], all: &mut [f32]) {
    sequences.each((Kept(kept, width), Tokens(all, width)), |_, (kept, all)| {
        let (first, rest) = all.0.split_at_mut(kept.0.len());
        first.copy_from_slice(kept.0);
        rest.fill(0.0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_is_given_its_own_rows() {
        let offsets = [0, 3, 4, 9];
        let mut rows = vec![0.0; 18];
        let sequences = Sequences::new(&offsets);
        sequences.each(Tokens(&mut rows[..], 2), |i, rows| rows.0.fill(i as f32));
        assert_eq!(rows, [[0.0; 6].as_slice(), &[1.0; 2], &[2.0; 10]].concat());
    }

    #[test]
    fn what_is_taken_can_be_spread_again() {
        let offsets = [0, 2, 5, 6];
        let all = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        for (keep, kept, spread_again) in [
            (
                Keep::First,
                vec![1.0, 3.0, 6.0],
                vec![1.0, 0.0, 3.0, 0.0, 0.0, 6.0],
            ),
            (Keep::All, all.to_vec(), all.to_vec()),
        ] {
            let sequences = Sequences::new(&offsets).keeping(keep);
            let mut found = vec![9.0; kept.len()];
            let mut back = vec![9.0; 6];
            take(sequences, 1, View::Host(&all), (&mut found).into());
            spread(sequences, 1, (&found).into(), (&mut back).into());
            assert_eq!((found, back), (kept, spread_again));
        }
    }
}
