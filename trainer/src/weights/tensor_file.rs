//! A weight file in its store: which of the known containers it is, and the tensors that it lists. Reads no
//! values before they are copied.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use zip::{CompressionMethod, ZipArchive};

use super::stored_tensor::StoredTensor;
use super::{pytorch, safetensors_header};
use crate::error::{Error, Result};
use cnclip_data::store::{ObjectReader, Store};

/// What files call their tensors.
pub(super) type StoredTensorMap = BTreeMap<String, StoredTensor>;

/// How long the model of a file was trained, as far as the file says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordedProgress {
    /// Passes over the data.
    pub epoch: Option<u64>,
    /// Optimizer steps.
    pub step: Option<u64>,
}

/// What a file lists.
#[derive(Debug)]
pub(super) struct TensorListing {
    pub(super) tensors: StoredTensorMap,
    pub(super) recorded_progress: RecordedProgress,
}

impl From<StoredTensorMap> for TensorListing {
    fn from(tensors: StoredTensorMap) -> Self {
        Self {
            tensors,
            recorded_progress: RecordedProgress::default(),
        }
    }
}

/// An object that holds tensors.
#[derive(Debug)]
pub(super) struct TensorFile {
    store: Store,
    name: String,
    pub(super) size: u64,
    /// PyTorch's container.
    archive: Option<ZipArchive<ObjectReader>>,
}

/// Where something lies in a file.
#[derive(Clone, Debug)]
pub(super) enum DataLocation {
    /// So many bytes from its beginning.
    Offset(u64),
    /// In an entry of an archive, so many bytes from the beginning of the entry.
    Entry(String, u64),
}

impl TensorFile {
    /// # Errors
    /// If there is no such object, or the store does not answer.
    fn open(store: &Store, name: &str) -> Result<Self> {
        let size = match store.object_size(name)? {
            Some(size) => size,
            // `get` of what is not there has the better error: it names the object.
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
        self.store.object_uri(&self.name)
    }

    pub(super) fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self.store.get_range(&self.name, range)?)
    }

    pub(super) fn open_reader(&self) -> ObjectReader {
        ObjectReader::new(self.store.clone(), &self.name, self.size)
    }

    /// For `map_err`: this file is not what it should be.
    pub(super) fn corrupt_file_error(
        &self,
        kind: &'static str,
    ) -> impl Fn(String) -> Error + use<> {
        let uri = self.uri();
        move |why| Error::Data(format!("{uri} is no readable {kind}: {why}"))
    }

    /// The same file, known as an archive.
    pub(super) fn with_archive(self, archive: ZipArchive<ObjectReader>) -> Self {
        Self {
            archive: Some(archive),
            ..self
        }
    }

    /// How many bytes from the beginning something lies.
    ///
    /// # Errors
    /// If an entry of an archive is not there, or is compressed.
    pub(super) fn data_offset(&self, place: &DataLocation) -> Result<u64> {
        let (name, offset) = match place {
            DataLocation::Offset(offset) => return Ok(*offset),
            DataLocation::Entry(name, offset) => (name, offset),
        };

        let damaged = |why: &str| {
            self.corrupt_file_error(pytorch::PYTORCH_FORMAT)(format!("its entry {name} {why}"))
        };
        // Looking up an entry needs a mutable archive; a clone shares the parsed directory.
        let mut archive = self
            .archive
            .clone()
            .ok_or_else(|| damaged("is in no archive"))?;

        let entry = archive
            .by_name(name)
            .map_err(|error| damaged(&error.to_string()))?;

        // PyTorch stores entries uncompressed, so that a part of a tensor is a range of the file.
        match entry.data_start() {
            Some(start) if entry.compression() == CompressionMethod::Stored => Ok(start + offset),
            _ => Err(damaged("is compressed")),
        }
    }
}

/// What a file of a few words in place of weights is, and what to do about it.
fn placeholder_advice(first: &[u8]) -> Option<&'static str> {
    let first = first.trim_ascii_start().to_ascii_lowercase();
    if first.starts_with(b"version https:") {
        return Some(
            "is a pointer of Git LFS and no weights: run `git lfs pull`, and upload the file again",
        );
    }

    let is_page = first.starts_with(b"<!doctype") || first.starts_with(b"<html");
    is_page.then_some(
        "is a web page and no weights: the download was answered with a page. Fetch it again",
    )
}

/// What an object lists, under its own names.
///
/// # Errors
/// If there is no such object, or it is of no kind we read.
pub(super) fn list_tensors(store: &Store, name: &str) -> Result<TensorListing> {
    let file = TensorFile::open(store, name)?;
    // Sixteen bytes hold the longest signature, the 15 bytes of PyTorch's stream, in one request.
    let first = file.read_range(0..file.size.min(16))?;
    // By content first: files of PyTorch are called `.pt`, `.pth`, `.bin`, or whatever their author liked.
    if let Some(advice) = placeholder_advice(&first) {
        return Err(Error::Data(format!("{} {advice}", file.uri())));
    }

    match &first[..] {
        start if start.starts_with(b"PK") => pytorch::list_archive(file),
        start if start.starts_with(&pytorch::LEGACY_MAGIC) => pytorch::list_legacy(Arc::new(file)),
        _ if name.ends_with(".safetensors") => {
            safetensors_header::list_safetensors(Arc::new(file)).map(TensorListing::from)
        }
        // A safetensors file of another name: its JSON header follows eight bytes of length.
        start if start.get(8) == Some(&b'{') => {
            safetensors_header::list_safetensors(Arc::new(file)).map(TensorListing::from)
        }
        _ => Err(file.corrupt_file_error(pytorch::PYTORCH_FORMAT)(
            "it does not begin like one".into(),
        )),
    }
}
