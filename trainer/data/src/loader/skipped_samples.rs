//! Counts the samples that cannot be used, over all ranks, and decides when they are too many.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use bytemuck::{Pod, Zeroable};
use cnclip_compute::sync::lock_ignoring_poison;

use crate::error::Result;
use crate::order::SampleRef;
use crate::skip_budget::{SkipBudget, SkipExamples, SkipReport};

/// The share is judged once this many samples were drawn (or all, if there are fewer): one bad sample among
/// the first hundred says nothing about a data set.
const MIN_SAMPLES_TO_JUDGE: u64 = 10_000;

/// Why a sample cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SkipReason {
    Image,
    Text,
    Shard,
}

/// A sample that cannot be used, as ranks report it to each other.
///
/// Plain numbers, because all-reduce and all-gather move bytes between ranks of one build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct UnusableSample {
    shard: u32,
    pair: u32,
    /// A `SkipReason`, by its number.
    reason: u32,
}

/// The samples that could not be used so far, each counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkipCounts {
    /// Their image does not decode.
    pub undecodable_images: u64,
    /// Their text is empty.
    pub empty_texts: u64,
    /// They are missing from a shard that is torn, changed or absent.
    pub missing_pairs: u64,
    /// Where the first ones are and what is wrong with them; of those that this rank found.
    pub examples: SkipExamples,
}

impl SkipCounts {
    /// All of them.
    pub fn total_skipped(&self) -> u64 {
        self.undecodable_images + self.empty_texts + self.missing_pairs
    }
}

/// The unusable samples that one loader knows of, its own and those that other ranks reported.
#[derive(Debug)]
pub(super) struct SkippedSamples {
    budget: SkipBudget,
    /// Samples of the data set.
    pairs: u64,
    /// How many ranks draw as much as this one.
    ranks: u64,
    state: Mutex<SkipState>,
}

#[derive(Debug, Default)]
struct SkipState {
    drawn: u64,
    /// Shard and pair of each: a sample comes again every epoch and is still one sample.
    counted: HashSet<(u32, u32)>,
    unreported: Vec<UnusableSample>,
    counts: SkipCounts,
}

impl SkippedSamples {
    /// Of a data set of `pairs`, from which so many ranks draw.
    pub(super) fn new(budget: SkipBudget, pairs: u64, ranks: u64) -> Self {
        Self {
            budget,
            pairs,
            ranks,
            state: Mutex::default(),
        }
    }

    pub(super) fn skip_counts(&self) -> SkipCounts {
        self.lock_state().counts.clone()
    }

    /// Counts what was drawn here, and with it what the other ranks draw meanwhile.
    pub(super) fn add_drawn(&self, pairs: u64) {
        // An estimate that needs no exchange between ranks: they work on equal parts of the same steps.
        self.lock_state().drawn += pairs * self.ranks;
    }

    /// Counts a sample, unless it was counted before.
    ///
    /// # Errors
    /// If too large a share of what was drawn is unusable.
    pub(super) fn record_skip(
        &self,
        sample: &SampleRef,
        reason: SkipReason,
        example: impl FnOnce() -> String,
    ) -> Result<()> {
        let mut state = self.lock_state();
        let unusable = UnusableSample {
            shard: sample.shard,
            pair: sample.pair,
            reason: reason as u32,
        };

        if !state.count_once(&unusable) {
            return Ok(());
        }

        state.unreported.push(unusable);
        // All samples of a torn shard have the same text.
        state.counts.examples.push_unique(example());
        self.check_limit(&state)
    }

    /// What was counted here and not reported to the other ranks yet.
    pub(super) fn take_unreported(&self) -> Vec<UnusableSample> {
        std::mem::take(&mut self.lock_state().unreported)
    }

    /// Counts what any rank found, unless it was counted before.
    ///
    /// # Errors
    /// If too large a share of what was drawn is unusable.
    pub(super) fn merge_reported(&self, reported: &[UnusableSample]) -> Result<()> {
        let mut state = self.lock_state();
        // This rank's own samples come back among them and are counted once.
        for unusable in reported {
            state.count_once(unusable);
        }

        self.check_limit(&state)
    }

    fn check_limit(&self, state: &SkipState) -> Result<()> {
        let counts = &state.counts;
        let detail = format!(
            " ({} images that do not decode, {} empty texts, {} missing from shards)",
            counts.undecodable_images, counts.empty_texts, counts.missing_pairs
        );

        self.budget.check(&SkipReport {
            skipped: counts.total_skipped(),
            total: state.drawn.max(MIN_SAMPLES_TO_JUDGE).min(self.pairs),
            records: "pairs",
            detail: &detail,
            examples: counts.examples.join(" "),
            remedy: "Correct the data set, or raise maxSkippedPercent.",
        })
    }

    fn lock_state(&self) -> MutexGuard<'_, SkipState> {
        lock_ignoring_poison(&self.state)
    }
}

impl SkipState {
    /// Counts a sample; says whether it was not counted before.
    fn count_once(&mut self, unusable: &UnusableSample) -> bool {
        let is_new = self.counted.insert((unusable.shard, unusable.pair));
        let counts = &mut self.counts;
        let count = match unusable.reason {
            reason if reason == SkipReason::Image as u32 => &mut counts.undecodable_images,
            reason if reason == SkipReason::Text as u32 => &mut counts.empty_texts,
            _ => &mut counts.missing_pairs,
        };

        *count += u64::from(is_new);
        is_new
    }
}
