//! Counts the pairs that cannot be used, over all ranks, and decides when they are too many. Never looks
//! at one.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::order::Draw;

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

/// A pair that cannot be used, as ranks tell each other of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Bad {
    shard: u32,
    pair: u32,
    /// A [`Reason`], by its number.
    reason: u32,
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
    /// How many ranks draw as much as this one.
    ranks: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    drawn: u64,
    bad: HashSet<(u32, u32)>,
    untold: Vec<Bad>,
    skipped: Skipped,
}

impl Skips {
    /// Allows the share `most` of a data set of `pairs`, from which so many ranks draw.
    pub(super) fn new((pairs, ranks): (u64, u64), most: f64) -> Self {
        Self {
            pairs,
            most,
            ranks,
            state: Mutex::default(),
        }
    }

    pub(super) fn so_far(&self) -> Skipped {
        self.lock().skipped.clone()
    }

    pub(super) fn drawn(&self, pairs: u64) {
        self.lock().drawn += pairs * self.ranks;
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
        let bad = Bad {
            shard: draw.shard,
            pair: draw.pair,
            reason: reason as u32,
        };

        if !state.count(&bad) {
            return Ok(());
        }

        state.untold.push(bad);
        let example = example();
        if state.skipped.examples.len() < MOST_EXAMPLES
            && !state.skipped.examples.contains(&example)
        {
            state.skipped.examples.push(example);
        }

        self.judge(&state)
    }

    /// What was counted here and not told before.
    pub(super) fn untold(&self) -> Vec<Bad> {
        std::mem::take(&mut self.lock().untold)
    }

    /// Counts what was found anywhere, unless it was counted before.
    ///
    /// # Errors
    /// If too large a share of what was drawn is bad.
    pub(super) fn learn(&self, told: &[Bad]) -> Result<()> {
        let mut state = self.lock();
        for bad in told {
            state.count(bad);
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

impl State {
    /// Counts a pair; says whether it was not counted before.
    fn count(&mut self, bad: &Bad) -> bool {
        let new = self.bad.insert((bad.shard, bad.pair));
        let skipped = &mut self.skipped;
        let count = match bad.reason {
            reason if reason == Reason::Picture as u32 => &mut skipped.pictures,
            reason if reason == Reason::Caption as u32 => &mut skipped.captions,
            _ => &mut skipped.missing,
        };

        *count += u64::from(new);
        new
    }
}
