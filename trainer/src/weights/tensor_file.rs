//! A weight file in its store: which of the known containers it is, and the tensors that it lists. Reads no
//! values before they are copied.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use zip::{CompressionMethod, ZipArchive};

use super::stored_tensor::StoredTensor;
use super::{ExpectedContent, pytorch, safetensors_header};
use crate::error::{Error, Result};
use cnclip_compute::sync::lock_ignoring_poison;
use cnclip_data::store::{ObjectParts, ObjectReader, Store};

/// Bytes that are read when a file is opened: more than most headers have.
const HEAD_BYTES: u64 = 1 << 20;

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
    /// What it must hold, where that is known.
    expected: Option<ExpectedContent>,
    /// How it begins. It stays in memory, so that it is not read again with the values.
    head: Bytes,
    /// At its beginning.
    reader: ObjectReader,
    /// PyTorch's container.
    archive: Option<ZipArchive<ObjectReader>>,
    /// Where the bytes of its entries lie, as far as that was looked up.
    entries: Mutex<BTreeMap<String, Range<u64>>>,
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
    /// If there is no such object, it has another size than it must have, or the store does not answer.
    fn open(store: &Store, name: &str, expected: Option<ExpectedContent>) -> Result<Self> {
        let uri = store.object_uri(name);
        let size = match (store.object_size(name)?, &expected) {
            (Some(size), None) => size,
            // Before any byte is read: a file of gigabytes that was cut off is found at once.
            (Some(size), Some(expected)) => expected.expect_size(&uri, size).map(|()| size)?,
            (None, Some(_)) => return Err(Error::Data(format!("{uri} is gone"))),
            // `get` of what is not there has the better error: it names the object.
            (None, None) => store.get(name)?.len() as u64,
        };

        Ok(Self {
            store: store.clone(),
            name: name.to_owned(),
            size,
            expected,
            head: store.get_range(name, 0..size.min(HEAD_BYTES))?,
            reader: ObjectReader::new(store.clone(), name, size),
            archive: None,
            entries: Mutex::default(),
        })
    }

    /// Its first bytes, as far as it has them.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn read_head(&mut self, len: u64) -> Result<Bytes> {
        let len = len.min(self.size);
        let head_len = self.head.len() as u64;
        if head_len < len {
            let rest = self.read_range(head_len..len)?;
            self.head = [&self.head[..], &rest].concat().into();
        }

        Ok(self.head.slice(..len as usize))
    }

    /// What of a range is in memory.
    pub(super) fn head_within(&self, range: &Range<u64>) -> Bytes {
        let end = range.end.min(self.head.len() as u64);
        match range.start < end {
            true => self.head.slice(range.start as usize..end as usize),
            false => Bytes::new(),
        }
    }

    /// What it must hold, where that is known.
    pub(super) fn expected(&self) -> Option<&ExpectedContent> {
        self.expected.as_ref()
    }

    /// Its bytes from one place to another, part after part.
    pub(super) fn read_parts(&self, range: Range<u64>) -> ObjectParts {
        self.store.read_parts(&self.name, range)
    }

    pub(super) fn uri(&self) -> String {
        self.store.object_uri(&self.name)
    }

    pub(super) fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self.store.get_range(&self.name, range)?)
    }

    pub(super) fn open_reader(&self) -> ObjectReader {
        self.reader.clone()
    }

    /// For `map_err`: this file is not what it should be, or the store failed while it was parsed.
    pub(super) fn corrupt_file_error(
        &self,
        kind: &'static str,
    ) -> impl Fn(String) -> Error + use<> {
        let uri = self.uri();
        let reader = self.reader.clone();
        // An outage must not be taken for damage, which no other attempt would mend.
        move |why| match reader.take_failure() {
            Some(failure) => failure.into(),
            None => Error::Data(format!("{uri} is no readable {kind}: {why}")),
        }
    }

    /// The same file, known as an archive.
    pub(super) fn with_archive(self, archive: ZipArchive<ObjectReader>) -> Self {
        Self {
            archive: Some(archive),
            ..self
        }
    }

    /// How many bytes from the beginning something of this length lies.
    ///
    /// # Errors
    /// If an entry of an archive is not there, is compressed, or ends before it.
    pub(super) fn data_offset(&self, place: &DataLocation, length: u64) -> Result<u64> {
        let (name, offset) = match place {
            DataLocation::Offset(offset) => return Ok(*offset),
            DataLocation::Entry(name, offset) => (name, offset),
        };

        // Bound first: the lock must not be held while a store is asked.
        let known = lock_ignoring_poison(&self.entries).get(name).cloned();
        let entry = match known {
            Some(entry) => entry,
            None => self.look_up_entry(name)?,
        };

        // Behind the entry lies the next one, whose bytes would be read as numbers.
        let size = entry.end - entry.start;
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > size) {
            let why = format!("has {size} bytes, too few for its tensor");
            return Err(self.damaged_entry(name, &why));
        }

        Ok(entry.start + offset)
    }

    fn damaged_entry(&self, name: &str, why: &str) -> Error {
        self.corrupt_file_error(pytorch::PYTORCH_FORMAT)(format!("its entry {name} {why}"))
    }

    /// Where the bytes of an entry of the archive lie.
    fn look_up_entry(&self, name: &str) -> Result<Range<u64>> {
        let damaged = |why: &str| self.damaged_entry(name, why);
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
            Some(start) if entry.compression() == CompressionMethod::Stored => {
                let range = start..start + entry.size();
                lock_ignoring_poison(&self.entries).insert(name.to_owned(), range.clone());
                Ok(range)
            }
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
/// If there is no such object, or it is of no kind we read; if it cannot be what it must be.
pub(super) fn list_tensors(
    store: &Store,
    name: &str,
    expected: Option<ExpectedContent>,
) -> Result<TensorListing> {
    let mut file = TensorFile::open(store, name, expected)?;
    // Sixteen bytes hold the longest signature, the 15 bytes of PyTorch's stream.
    let first = file.read_head(16)?;
    // By content first: files of PyTorch are called `.pt`, `.pth`, `.bin`, or whatever their author liked.
    if let Some(advice) = placeholder_advice(&first) {
        return Err(Error::Data(format!("{} {advice}", file.uri())));
    }

    match &first[..] {
        start if start.starts_with(b"PK") => pytorch::list_archive(file),
        start if start.starts_with(&pytorch::LEGACY_MAGIC) => pytorch::list_legacy(Arc::new(file)),
        _ if name.ends_with(".safetensors") => {
            safetensors_header::list_safetensors(file).map(TensorListing::from)
        }
        // A safetensors file of another name: its JSON header follows eight bytes of length.
        start if start.get(8) == Some(&b'{') => {
            safetensors_header::list_safetensors(file).map(TensorListing::from)
        }
        _ => Err(file.corrupt_file_error(pytorch::PYTORCH_FORMAT)(
            "it does not begin like one".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::exit_code::TrainerExit;

    use super::*;

    #[test]
    fn a_store_that_fails_while_a_file_is_parsed_does_not_make_it_a_damaged_file() {
        type Parse = fn(TensorFile) -> Result<TensorListing>;
        let parsers: [Parse; 2] = [pytorch::list_archive, |file| {
            pytorch::list_legacy(Arc::new(file))
        }];

        for parse in parsers {
            let store = Store::in_memory();
            store.put("m.pt", vec![0; 100].into()).unwrap();
            let file = TensorFile::open(&store, "m.pt", None).unwrap();
            let error = parse(file).unwrap_err();
            assert_eq!(error.exit_code(), TrainerExit::Data, "{error}");

            let file = TensorFile::open(&store, "m.pt", None).unwrap();
            store.delete("m.pt").unwrap();
            let error = parse(file).unwrap_err();
            assert_eq!(error.exit_code(), TrainerExit::Config, "{error}");
            assert!(error.to_string().contains("memory:/m.pt"), "{error}");
        }
    }
}
