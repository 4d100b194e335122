//! Counter-based random numbers: each is a hash of a key and an index, so that any of them can be drawn again
//! at any time, in any order and by any number of threads. Not for secrets.
//!
//! ```
//! use cnclip_compute::random::{derive_key, normal_f32, uniform_f32};
//!
//! let key = derive_key(7, 3); // stream 3 of seed 7
//! assert_eq!(uniform_f32(derive_key(key, 5)), uniform_f32(derive_key(key, 5)));
//! assert_ne!(normal_f32(derive_key(key, 5)), normal_f32(derive_key(key, 6)));
//! ```

/// A hash of 64 bits.
///
/// # Source
/// The output step of SplitMix64 (Steele, Lea, Flood, 2014).
pub fn mix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The key of stream `index` under another key.
pub fn derive_key(key: u64, index: u64) -> u64 {
    // Hashed before the index goes in: keys that differ by little would else give streams that overlap.
    mix64(mix64(key) ^ index)
}

/// A uniform number in [0, 1) from 24 of the key's bits.
pub fn uniform_f32(key: u64) -> f32 {
    // As many bits as the significand of an fp32: more would round up to 1.
    (key >> 40) as f32 * (1.0 / (1 << 24) as f32)
}

/// A standard normal number.
///
/// # Source
/// Box and Muller (1958).
pub fn normal_f32(key: u64) -> f32 {
    let a = uniform_f32(key);
    // The second number of the pair, with the sine, is not used: one key gives one number.
    let b = uniform_f32(mix64(key));
    // 1 - a is in (0, 1], so that the logarithm is finite.
    (-2.0 * (1.0 - a).ln()).sqrt() * (std::f32::consts::TAU * b).cos()
}

/// A hash of 32 bits: the cheap one of inner loops, which the compiler vectorizes.
///
/// # Source
/// `lowbias32` of Wellons' hash prospector.
#[inline(always)]
pub fn mix32(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
