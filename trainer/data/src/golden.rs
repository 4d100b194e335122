//! The pictures of the tests and what the reference made of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/images/");

/// What the reference made of one file.
#[derive(Deserialize)]
pub(super) struct Expected {
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
pub(super) struct Varied {
    pub(super) sha256: String,
    /// Of a pair of operations: which way each went.
    pub(super) signs: Option<[i32; 2]>,
    /// Of a crop: its box, and the side that it was resized to.
    #[serde(flatten)]
    pub(super) crop: Option<Crop>,
}

#[derive(Deserialize)]
pub(super) struct Crop {
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) size: usize,
}

/// The usual and the odd files.
pub(super) fn pictures() -> Vec<(String, Expected)> {
    let listed = |folder: &'static str| {
        let files: BTreeMap<String, Expected> = json(&format!("{folder}.json"));
        files
            .into_iter()
            .map(move |(name, file)| (format!("{folder}/{name}"), file))
    };

    listed("usual").chain(listed("odd")).collect()
}

pub(super) fn augmented() -> BTreeMap<String, Varied> {
    json("augment.json")
}

pub(super) fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{FOLDER}{name}")).unwrap_or_else(|e| panic!("{FOLDER}{name}: {e}"))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&file(name)).unwrap()
}
