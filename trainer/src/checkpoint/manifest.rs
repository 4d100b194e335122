//! What a checkpoint consists of, and the digests that prove it. Written last: a folder without a
//! manifest is no checkpoint.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::data::shard::sha256;
use crate::error::{Error, Result};
use crate::store::Store;

pub(super) use cnclip_crds::artifacts::MANIFEST;
const FORMAT: &str = "cnclip-checkpoint/1";

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: String,
    bytes: u64,
    sha256: String,
}

impl File {
    pub(super) fn new(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.into(), bytes: bytes.len() as u64, sha256: sha256(bytes) }
    }

    /// # Errors
    /// If these are not the bytes that were written; the message says which differ and how.
    pub(super) fn verify(&self, folder: &Store, bytes: &Bytes) -> Result<()> {
        let uri = folder.uri_of(&self.name);
        if bytes.len() as u64 != self.bytes {
            let found = bytes.len();
            return Err(Error::Data(format!("{uri} has {found} bytes instead of {}", self.bytes)));
        }
        match sha256(bytes) == self.sha256 {
            true => Ok(()),
            false => Err(Error::Data(format!(
                "{uri} was changed after it was written: its SHA-256 is not {}",
                self.sha256
            ))),
        }
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
    pub(super) files: Vec<File>,
}

impl Manifest {
    pub(super) fn new(step: u64, score: Option<f64>, files: Vec<File>) -> Self {
        Self { format: FORMAT.into(), step, score, files }
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
    pub(super) fn read(folder: &Store) -> Result<(Self, String)> {
        let uri = folder.uri_of(MANIFEST);
        let bytes = folder.find(MANIFEST)?.ok_or_else(|| {
            Error::Config(format!(
                "{} is no whole checkpoint: it holds no {MANIFEST}. Name a folder that does.",
                folder.uri()
            ))
        })?;
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Data(format!("{uri} is no manifest: {error}")))?;
        if manifest.format != FORMAT {
            return Err(Error::Data(format!(
                "{uri} is of format {:?}, this version reads {FORMAT:?}. Use the version of cnclip \
                 that wrote it, or a newer one.",
                manifest.format
            )));
        }
        Ok((manifest, sha256(&bytes)))
    }
}
