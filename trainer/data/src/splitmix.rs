//! SplitMix64: a stream of random numbers whose state is a counter. Not for secrets.

use cnclip_compute::random::mix64;

/// The odd step between two states, 2⁶⁴ divided by the golden ratio.
pub(crate) const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream that is a function of its seed and of how many numbers were taken.
///
/// Written out and not taken from a crate: a resumed run must draw what the run before it drew, whatever
/// versions of dependencies they were built with.
///
/// # Source
/// Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
#[derive(Debug)]
pub(crate) struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next_u64(&mut self) -> u64 {
        let number = mix64(self.state);
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        number
    }

    /// Uniform in [0, 1).
    pub(crate) fn next_unit(&mut self) -> f64 {
        // 53 bits are what a double holds exactly: every number that can come is equally likely.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform among `0..count`.
    pub(crate) fn next_index(&mut self, count: usize) -> usize {
        // The high half of the product: no division, and a bias of `count` in 2⁶⁴, which is not measurable.
        ((u128::from(self.next_u64()) * count as u128) >> 64) as usize
    }

    /// Permutes items uniformly, by Fisher and Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.next_index(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_generator() {
        let mut stream = SplitMix64::new(1_234_567);
        let found: Vec<_> = (0..3).map(|_| stream.next_u64()).collect();
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];

        assert_eq!(found, expected);
    }
}
