//! A stream of random numbers that is a function of its key and of how many were taken.
//!
//! It is not for secrets: SplitMix64, whose state is a counter, started from a hash of the key.

use super::AugmentKey;

/// The odd step between two states, 2⁶⁴ divided by the golden ratio.
const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// The numbers of one picture.
#[derive(Debug)]
pub(super) struct AugmentRng(u64);

impl AugmentRng {
    pub(super) fn new(AugmentKey { seed, step, sample }: AugmentKey) -> Self {
        let absorb = |state: u64, part| {
            splitmix64_mix(state.wrapping_add(GOLDEN_GAMMA) ^ splitmix64_mix(part))
        };
        Self([seed, step, sample].into_iter().fold(0, absorb))
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        splitmix64_mix(self.0)
    }

    /// Uniform in [0, 1).
    fn random_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub(super) fn random_range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.random_unit()
    }

    /// Uniform among `0..count`.
    pub(super) fn random_index(&mut self, count: usize) -> usize {
        ((u128::from(self.next_u64()) * count as u128) >> 64) as usize
    }

    pub(super) fn random_bool(&mut self, probability: f64) -> bool {
        self.random_unit() < probability
    }
}

/// The finaliser of SplitMix64, which is a bijection.
fn splitmix64_mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
