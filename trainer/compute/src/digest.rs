//! Digests: SHA-256 of what is stored, and fingerprints by which equal images and texts are recognized.

use bytemuck::{Pod, Zeroable};
use sha2::{Digest, Sha256};

/// SHA-256 in hexadecimal.
///
/// ```
/// assert!(cnclip_compute::digest::sha256(b"").starts_with("e3b0c44298fc1c14"));
/// ```
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal digits.
///
/// ```
/// assert_eq!(cnclip_compute::digest::hex(&[0, 171]), "00ab");
/// ```
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes of a sample's image and text: equal for equal bytes and equal tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Fingerprint {
    /// Of the image.
    pub image: u64,
    /// Of the text.
    pub text: u64,
}
