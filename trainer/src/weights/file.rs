//! A file of weights in its place: which of the known containers it is, and the tensors that it
//! lists. Reads no values before they are asked for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use zip::{CompressionMethod, ZipArchive};

use super::stored::Stored;
use super::{header, pytorch};
use crate::error::{Error, Result};
use cnclip_data::store::{Reader, Store};

/// What files call their tensors.
pub(super) type Names = BTreeMap<String, Stored>;

/// How long the model of a file was trained, as far as the file says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trained {
    /// Passes over the data.
    pub epoch: Option<u64>,
    /// Optimizer steps.
    pub step: Option<u64>,
}

/// What a file lists.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) tensors: Names,
    pub(super) trained: Trained,
}

impl From<Names> for Listing {
    fn from(tensors: Names) -> Self {
        Self {
            tensors,
            trained: Trained::default(),
        }
    }
}

/// An object that holds tensors.
#[derive(Debug)]
pub(super) struct File {
    store: Store,
    name: String,
    pub(super) size: u64,
    /// PyTorch's container.
    archive: Option<ZipArchive<Reader>>,
}

/// Where something lies in a file.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// So many bytes from its beginning.
    Offset(u64),
    /// In an entry of an archive, so many bytes from the beginning of the entry.
    Entry(String, u64),
}

impl File {
    /// # Errors
    /// If there is no such object, or the store does not answer.
    fn open(store: &Store, name: &str) -> Result<Self> {
        let size = match store.size(name)? {
            Some(size) => size,
            // Nothing to get, which the error tells.
            None => store.get(name)?.len() as u64,
        };

        Ok(Self {
            store: store.clone(),
            name: name.to_owned(),
            size,
            archive: None,
        })
    }

    pub(super) fn uri(&self) -> String {
        self.store.uri_of(&self.name)
    }

    pub(super) fn bytes(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self.store.get_range(&self.name, range)?)
    }

    pub(super) fn reader(&self) -> Reader {
        Reader::new(self.store.clone(), &self.name, self.size)
    }

    /// For `map_err`: this file is not what it should be.
    pub(super) fn damaged(&self, kind: &'static str) -> impl Fn(String) -> Error + use<> {
        let uri = self.uri();
        move |why| Error::Data(format!("{uri} is no readable {kind}: {why}"))
    }

    /// The same file, known as an archive.
    pub(super) fn unpacked(self, archive: ZipArchive<Reader>) -> Self {
        Self {
            archive: Some(archive),
            ..self
        }
    }

    /// How many bytes from the beginning something lies.
    ///
    /// # Errors
    /// If an entry of an archive is not there, or is compressed.
    pub(super) fn start(&self, place: &Place) -> Result<u64> {
        let (name, offset) = match place {
            Place::Offset(offset) => return Ok(*offset),
            Place::Entry(name, offset) => (name, offset),
        };

        let damaged = |why: &str| self.damaged(pytorch::KIND)(format!("its entry {name} {why}"));
        let mut archive = self
            .archive
            .clone()
            .ok_or_else(|| damaged("is in no archive"))?;

        let entry = archive
            .by_name(name)
            .map_err(|error| damaged(&error.to_string()))?;

        match entry.data_start() {
            Some(start) if entry.compression() == CompressionMethod::Stored => Ok(start + offset),
            _ => Err(damaged("is compressed")),
        }
    }
}

/// What an object lists, under its own names.
///
/// # Errors
/// If there is no such object, or it is of no kind we read.
pub(super) fn list(store: &Store, name: &str) -> Result<Listing> {
    let file = File::open(store, name)?;
    let first = file.bytes(0..file.size.min(16))?;
    match &first[..] {
        start if start.starts_with(b"PK") => pytorch::archive(file),
        start if start.starts_with(&pytorch::MAGIC) => pytorch::legacy(Arc::new(file)),
        _ if name.ends_with(".safetensors") => header::list(Arc::new(file)).map(Listing::from),
        start if start.get(8) == Some(&b'{') => header::list(Arc::new(file)).map(Listing::from),
        _ => Err(file.damaged(pytorch::KIND)(
            "it does not begin like one".into(),
        )),
    }
}
