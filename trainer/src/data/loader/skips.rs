//! Counts the pairs that cannot be used and decides when they are too many. Never looks at one.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::data::order::Draw;
use crate::error::{Error, Result};

/// The share is judged once this many pairs were drawn (or all, if there are fewer).
const JUDGED_FROM: u64 = 10_000;
const MOST_EXAMPLES: usize = 5;

/// Why a pair cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Picture,
    Caption,
    Shard,
}

/// The pairs that could not be used so far, each counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Their picture does not decode.
    pub pictures: u64,
    /// Their caption is empty.
    pub captions: u64,
    /// They are missing from a shard that is torn, changed or absent.
    pub missing: u64,
    /// Where the first ones are and what is wrong with them.
    pub examples: Vec<String>,
}

impl Skipped {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.pictures + self.captions + self.missing
    }
}

/// The count of one loader.
#[derive(Debug)]
pub(super) struct Skips {
    pairs: u64,
    most: f64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    drawn: u64,
    bad: HashSet<(u32, u32)>,
    skipped: Skipped,
}

impl Skips {
    /// Allows the share `most` of a data set of `pairs`.
    pub(super) fn new(pairs: u64, most: f64) -> Self {
        Self { pairs, most, state: Mutex::default() }
    }

    pub(super) fn so_far(&self) -> Skipped {
        self.lock().skipped.clone()
    }

    pub(super) fn drawn(&self, pairs: u64) {
        self.lock().drawn += pairs;
    }

    /// Counts a pair, unless it was counted before.
    ///
    /// # Errors
    /// If too large a share of what was drawn is bad.
    pub(super) fn add(
        &self,
        draw: &Draw,
        reason: Reason,
        example: impl FnOnce() -> String,
    ) -> Result<()> {
        let mut state = self.lock();
        if !state.bad.insert((draw.shard, draw.pair)) {
            return Ok(());
        }
        match reason {
            Reason::Picture => state.skipped.pictures += 1,
            Reason::Caption => state.skipped.captions += 1,
            Reason::Shard => state.skipped.missing += 1,
        }
        let example = example();
        if state.skipped.examples.len() < MOST_EXAMPLES
            && !state.skipped.examples.contains(&example)
        {
            state.skipped.examples.push(example);
        }
        self.judge(&state)
    }

    fn judge(&self, State { drawn, skipped, .. }: &State) -> Result<()> {
        let of = (*drawn).max(JUDGED_FROM).min(self.pairs);
        if skipped.total() as f64 <= self.most * of as f64 {
            return Ok(());
        }
        Err(Error::Data(format!(
            "{} of {of} pairs cannot be used ({} pictures that do not decode, {} empty captions, {} \
             missing from shards); at most {} % may be. The first: {} Correct the data set, or raise \
             maxSkippedPercent.",
            skipped.total(),
            skipped.pictures,
            skipped.captions,
            skipped.missing,
            self.most * 100.0,
            skipped.examples.join(" ")
        )))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
