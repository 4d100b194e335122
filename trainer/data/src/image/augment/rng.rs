//! The random numbers of one image's augmentation.

use super::AugmentKey;
use crate::splitmix::{GOLDEN_GAMMA, SplitMix64};
use cnclip_compute::random::mix64;

/// A stream of random numbers that is a function of its key and of how many were taken.
#[derive(Debug)]
pub(super) struct AugmentRng(SplitMix64);

impl AugmentRng {
    pub(super) fn new(key: AugmentKey) -> Self {
        // Each part is scrambled before it is absorbed: seeds, steps and samples are small numbers that differ
        // in few bits, and sums of them would collide (step 1 of sample 2, step 2 of sample 1).
        let absorb = |state: u64, part| scramble(state.wrapping_add(GOLDEN_GAMMA) ^ scramble(part));
        let parts = [key.seed, key.step, key.sample];
        Self(SplitMix64::new(parts.into_iter().fold(0, absorb)))
    }

    /// Uniform in [low, high).
    pub(super) fn random_range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.next_unit()
    }

    /// Uniform among `0..count`.
    pub(super) fn random_index(&mut self, count: usize) -> usize {
        self.0.next_index(count)
    }

    pub(super) fn random_bool(&mut self, probability: f64) -> bool {
        self.0.next_unit() < probability
    }
}

/// SplitMix64's output function alone, which is a bijection: [`mix64`] adds the gamma first.
fn scramble(word: u64) -> u64 {
    mix64(word.wrapping_sub(GOLDEN_GAMMA))
}
