//! The images of the tests and what the reference made of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

const GOLDEN_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/images/");

/// What the reference made of one file.
#[derive(Deserialize)]
pub(super) struct ExpectedImage {
    pub(super) mode: String,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) side: usize,
    /// SHA-256 of the RGB bytes before and after it was resized.
    pub(super) decoded: String,
    pub(super) resized: String,
    /// Places in the planes and the values there.
    #[serde(default)]
    pub(super) normalised: Vec<(usize, f32)>,
}

/// What the reference made of one operation.
#[derive(Deserialize)]
pub(super) struct ExpectedAugmentation {
    pub(super) sha256: String,
    /// Of a pair of operations: which way each went.
    pub(super) signs: Option<[i32; 2]>,
    /// Of a crop: its box, and the side that it was resized to.
    #[serde(flatten)]
    pub(super) crop: Option<ExpectedCrop>,
}

#[derive(Deserialize)]
pub(super) struct ExpectedCrop {
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) size: usize,
}

/// The usual and the odd files.
pub(super) fn expected_images() -> Vec<(String, ExpectedImage)> {
    let listed = |folder: &'static str| {
        let files: BTreeMap<String, ExpectedImage> = read_golden_json(&format!("{folder}.json"));
        files
            .into_iter()
            .map(move |(name, file)| (format!("{folder}/{name}"), file))
    };

    listed("usual").chain(listed("odd")).collect()
}

pub(super) fn expected_augmentations() -> BTreeMap<String, ExpectedAugmentation> {
    read_golden_json("augment.json")
}

pub(super) fn read_golden_file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{GOLDEN_FOLDER}{name}"))
        .unwrap_or_else(|e| panic!("{GOLDEN_FOLDER}{name}: {e}"))
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn read_golden_json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&read_golden_file(name)).unwrap()
}
