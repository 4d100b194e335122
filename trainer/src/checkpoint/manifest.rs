//! The manifest of a checkpoint: its files with sizes and digests. Written last: a folder without a manifest
//! is no checkpoint.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::weights::ExpectedContent;
use cnclip_compute::digest::{hex, sha256};
use cnclip_data::store::Store;

pub(super) use cnclip_crds::artifacts::MANIFEST_FILE;
const MANIFEST_FORMAT: &str = "cnclip-checkpoint/1";

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ManifestEntry {
    pub(super) name: String,
    bytes: u64,
    pub(super) sha256: String,
}

impl ManifestEntry {
    pub(super) fn new(name: &str, bytes: &[u8]) -> Self {
        Self {
            name: name.into(),
            bytes: bytes.len() as u64,
            sha256: sha256(bytes),
        }
    }

    /// What the file must hold.
    pub(super) fn expected(&self) -> ExpectedContent {
        ExpectedContent {
            bytes: self.bytes,
            sha256: self.sha256.clone(),
        }
    }

    /// Reads the file once, part after part.
    ///
    /// # Errors
    /// If it is gone or does not hold what was written; the message says what differs and how.
    pub(super) fn verify_content(&self, folder: &Store) -> Result<()> {
        let uri = folder.object_uri(&self.name);
        let gone = || Error::Data(format!("{uri} is gone"));
        let expected = self.expected();
        // The size first: a truncated file of gigabytes is found without reading it.
        let size = folder.object_size(&self.name)?;
        expected.expect_size(&uri, size.ok_or_else(gone)?)?;

        let mut hash = Sha256::new();
        for part in folder.read_parts(&self.name, 0..self.bytes) {
            hash.update(part?);
        }

        expected.expect_digest(&uri, &hex(&hash.finalize()))
    }

    /// Its bytes.
    ///
    /// # Errors
    /// As [`ManifestEntry::verify_content`].
    pub(super) fn read_verified(&self, folder: &Store) -> Result<Bytes> {
        let uri = folder.object_uri(&self.name);
        let gone = || Error::Data(format!("{uri} is gone"));
        let bytes = folder.get_if_exists(&self.name)?.ok_or_else(gone)?;
        let expected = self.expected();
        expected.expect_size(&uri, bytes.len() as u64)?;
        expected.expect_digest(&uri, &sha256(&bytes))?;

        Ok(bytes)
    }
}

/// The files of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: String,
    pub(super) step: u64,
    /// What validation gave it, if it was validated: more is better.
    pub(super) score: Option<f64>,
    pub(super) files: Vec<ManifestEntry>,
}

impl Manifest {
    pub(super) fn new(step: u64, score: Option<f64>, files: Vec<ManifestEntry>) -> Self {
        Self {
            format: MANIFEST_FORMAT.into(),
            step,
            score,
            files,
        }
    }

    pub(super) fn to_bytes(&self) -> Result<Bytes> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::Bug(format!("cannot write a manifest as JSON: {error}")))?;
        Ok(text.into())
    }

    /// The manifest in a folder and its own digest.
    ///
    /// # Errors
    /// If there is none, or it is not one we can read.
    pub(super) fn read_from(folder: &Store) -> Result<(Self, String)> {
        let uri = folder.object_uri(MANIFEST_FILE);
        let bytes = folder.get_if_exists(MANIFEST_FILE)?.ok_or_else(|| {
            Error::Config(format!(
                "{} is no whole checkpoint: it holds no {MANIFEST_FILE}. Name a folder that does.",
                folder.uri()
            ))
        })?;

        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Data(format!("{uri} is no manifest: {error}")))?;
        if manifest.format != MANIFEST_FORMAT {
            return Err(Error::Data(format!(
                "{uri} is of format {:?}, this version reads {MANIFEST_FORMAT:?}. Use the version of cnclip \
                 that wrote it, or a newer one.",
                manifest.format
            )));
        }

        // It holds the digests of all files, so its own digest identifies the checkpoint.
        Ok((manifest, sha256(&bytes)))
    }
}
