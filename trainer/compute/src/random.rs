//! Random numbers without a generator: each is a function of a key and a counter, so that any of
//! them can be made again at any time. Not for secrets.

/// Scrambles 64 bits.
///
/// # Source
/// The output step of SplitMix64 (Steele, Lea, Flood, 2014).
pub fn mix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The key of one stream under another key.
pub fn derive_key(key: u64, index: u64) -> u64 {
    mix64(mix64(key) ^ index)
}

/// A number in [0, 1) from 24 of the key's bits.
pub fn uniform_f32(key: u64) -> f32 {
    (key >> 40) as f32 * (1.0 / (1 << 24) as f32)
}

/// A normal number from the key's bits.
///
/// # Source
/// Box and Muller (1958).
pub fn normal_f32(key: u64) -> f32 {
    let a = uniform_f32(key);
    let b = uniform_f32(mix64(key));
    (-2.0 * (1.0 - a).ln()).sqrt() * (std::f32::consts::TAU * b).cos()
}

/// Scrambles 32 bits: the cheap hash of the inner loops, which the compiler turns into vector code.
///
/// # Source
/// `lowbias32` of Wellons' hash prospector.
#[inline(always)]
pub fn mix32(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
