//! Counts the pairs that cannot be used, over all ranks, and decides when they are too many. Never looks
//! at one.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::order::SampleRef;

/// The share is judged once this many pairs were drawn (or all, if there are fewer).
const MIN_SAMPLES_TO_JUDGE: u64 = 10_000;
const MAX_EXAMPLES: usize = 5;

/// Why a pair cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SkipReason {
    Image,
    Text,
    Shard,
}

/// A pair that cannot be used, as ranks tell each other of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct UnusableSample {
    shard: u32,
    pair: u32,
    /// A [`Reason`], by its number.
    reason: u32,
}

/// The pairs that could not be used so far, each counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkipCounts {
    /// Their picture does not decode.
    pub undecodable_images: u64,
    /// Their caption is empty.
    pub empty_texts: u64,
    /// They are missing from a shard that is torn, changed or absent.
    pub missing_pairs: u64,
    /// Where the first ones are and what is wrong with them.
    pub examples: Vec<String>,
}

impl SkipCounts {
    /// All of them.
    pub fn total_skipped(&self) -> u64 {
        self.undecodable_images + self.empty_texts + self.missing_pairs
    }
}

/// The count of one loader.
#[derive(Debug)]
pub(super) struct SkipBudget {
    pairs: u64,
    max_skipped_ratio: f64,
    /// How many ranks draw as much as this one.
    ranks: u64,
    state: Mutex<SkipState>,
}

#[derive(Debug, Default)]
struct SkipState {
    drawn: u64,
    bad: HashSet<(u32, u32)>,
    unreported: Vec<UnusableSample>,
    counts: SkipCounts,
}

impl SkipBudget {
    /// Allows the share `most` of a data set of `pairs`, from which so many ranks draw.
    pub(super) fn new((pairs, ranks): (u64, u64), most: f64) -> Self {
        Self {
            pairs,
            max_skipped_ratio: most,
            ranks,
            state: Mutex::default(),
        }
    }

    pub(super) fn skip_counts(&self) -> SkipCounts {
        self.lock_state().counts.clone()
    }

    pub(super) fn add_drawn(&self, pairs: u64) {
        self.lock_state().drawn += pairs * self.ranks;
    }

    /// Counts a pair, unless it was counted before.
    ///
    /// # Errors
    /// If too large a share of what was drawn is bad.
    pub(super) fn record_skip(
        &self,
        draw: &SampleRef,
        reason: SkipReason,
        example: impl FnOnce() -> String,
    ) -> Result<()> {
        let mut state = self.lock_state();
        let bad = UnusableSample {
            shard: draw.shard,
            pair: draw.pair,
            reason: reason as u32,
        };

        if !state.count_once(&bad) {
            return Ok(());
        }

        state.unreported.push(bad);
        let example = example();
        if state.counts.examples.len() < MAX_EXAMPLES && !state.counts.examples.contains(&example) {
            state.counts.examples.push(example);
        }

        self.check_limit(&state)
    }

    /// What was counted here and not told before.
    pub(super) fn take_unreported(&self) -> Vec<UnusableSample> {
        std::mem::take(&mut self.lock_state().unreported)
    }

    /// Counts what was found anywhere, unless it was counted before.
    ///
    /// # Errors
    /// If too large a share of what was drawn is bad.
    pub(super) fn merge_reported(&self, told: &[UnusableSample]) -> Result<()> {
        let mut state = self.lock_state();
        for bad in told {
            state.count_once(bad);
        }

        self.check_limit(&state)
    }

    fn check_limit(
        &self,
        SkipState {
            drawn,
            counts: skipped,
            ..
        }: &SkipState,
    ) -> Result<()> {
        let of = (*drawn).max(MIN_SAMPLES_TO_JUDGE).min(self.pairs);
        if skipped.total_skipped() as f64 <= self.max_skipped_ratio * of as f64 {
            return Ok(());
        }

        Err(Error::Data(format!(
            "{} of {of} pairs cannot be used ({} pictures that do not decode, {} empty captions, {} \
             missing from shards); at most {} % may be. The first: {} Correct the data set, or raise \
             maxSkippedPercent.",
            skipped.total_skipped(),
            skipped.undecodable_images,
            skipped.empty_texts,
            skipped.missing_pairs,
            self.max_skipped_ratio * 100.0,
            skipped.examples.join(" ")
        )))
    }

    fn lock_state(&self) -> MutexGuard<'_, SkipState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SkipState {
    /// Counts a pair; says whether it was not counted before.
    fn count_once(&mut self, bad: &UnusableSample) -> bool {
        let new = self.bad.insert((bad.shard, bad.pair));
        let skipped = &mut self.counts;
        let count = match bad.reason {
            reason if reason == SkipReason::Image as u32 => &mut skipped.undecodable_images,
            reason if reason == SkipReason::Text as u32 => &mut skipped.empty_texts,
            _ => &mut skipped.missing_pairs,
        };

        *count += u64::from(new);
        new
    }
}
