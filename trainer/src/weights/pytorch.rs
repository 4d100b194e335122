//! The tensors that a file of PyTorch lists: an archive, TorchScript's among them, or the stream
//! that PyTorch wrote before 1.6. Runs nothing of what it reads.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek};
use std::sync::Arc;

use candle_core::pickle::Object;
use zip::ZipArchive;

use super::dtype_convert::dtype_size;
use super::pickle::{self, TorchTensor};
use super::stored_tensor::{StoredTensor, StridedBlock};
use super::tensor_file::{DataLocation, TensorFile, TensorListing};
use crate::error::{Error, Result};

/// What these files are called in messages.
pub(super) const PYTORCH_FORMAT: &str = "PyTorch checkpoint";

/// How the stream begins: the number that PyTorch put there, pickled.
pub(super) const LEGACY_MAGIC: [u8; 15] = [
    0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.',
];

/// The tensors of an archive: objects in `<name>/data.pkl`, numbers in `<name>/data/<key>`.
///
/// # Errors
/// If it is no such archive.
pub(super) fn list_archive(file: TensorFile) -> Result<TensorListing> {
    const OBJECTS: &str = "data.pkl";
    let damaged = file.corrupt_file_error(PYTORCH_FORMAT);
    // A zip since PyTorch 1.6. The folder in it is called as the file was when it was saved, so the pickle is
    // found by the end of its name.
    let mut archive =
        ZipArchive::new(file.open_reader()).map_err(|error| damaged(error.to_string()))?;

    let names: Vec<String> = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()))
        .collect();

    let objects = names
        .iter()
        .find(|name| name.rsplit('/').next() == Some(OBJECTS));

    let objects = objects.ok_or_else(|| damaged(format!("it holds no {OBJECTS}")))?;
    let entry = archive
        .by_name(objects)
        .map_err(|error| damaged(error.to_string()))?;

    let object = pickle::read_object(&mut BufReader::new(entry));
    let object = object.map_err(damaged)?;
    let file = Arc::new(file.with_archive(archive));
    let folder = objects.trim_end_matches(".pkl");

    list_stored_tensors(&file, &object, |array| {
        let size = dtype_size(array.storage.dtype);
        let start = (array.offset * size) as u64;
        let entry = format!("{folder}/{}", array.storage.key);
        Some(DataLocation::Entry(entry, start))
    })
}

/// The tensors of a stream: five objects, then storage after storage.
///
/// # Errors
/// If it is no such stream.
pub(super) fn list_legacy(file: Arc<TensorFile>) -> Result<TensorListing> {
    let damaged = |error: String| file.corrupt_file_error(PYTORCH_FORMAT)(error);
    let mut reader = BufReader::new(file.open_reader());
    let skipped = reader.read_exact(&mut [0; LEGACY_MAGIC.len()]);
    skipped.map_err(|error| damaged(error.to_string()))?;
    // Each object is a pickle of its own: after the magic number the protocol version, the writer's byte
    // order and integer sizes, the state dict, and the keys of the storages in the order of their bytes.
    let mut next = || pickle::read_object(&mut reader).map_err(&damaged);
    let _protocol = next()?;
    let _system = next()?;
    let object = next()?;

    let keys = next()?;
    let starts = storage_offsets(&mut reader, &object, &keys).map_err(&damaged)?;
    list_stored_tensors(&file, &object, |array| {
        let size = dtype_size(array.storage.dtype);
        let first = (array.offset * size) as u64;
        let start = starts.get(&array.storage.key)?;
        Some(DataLocation::Offset(start + first))
    })
}

/// Where each storage begins: they follow one another, each behind its length.
fn storage_offsets(
    reader: &mut (impl Read + Seek),
    object: &Object,
    keys: &Object,
) -> Result<BTreeMap<String, u64>, String> {
    let Object::List(keys) = keys else {
        return Err("it lists no storages".into());
    };

    // A length counts elements, not bytes, and the type is only in the pickle.
    let mut dtypes = BTreeMap::new();
    pickle::collect_storage_dtypes(object, &mut dtypes);
    let mut starts = BTreeMap::new();

    for key in keys {
        let Object::Unicode(key) = key else {
            return Err("a storage has no name".into());
        };

        let dtype = dtypes
            .get(key)
            .ok_or_else(|| format!("no tensor lies in storage {key}"))?;

        let mut length = [0; 8];
        reader
            .read_exact(&mut length)
            .map_err(|error| error.to_string())?;

        let start = reader
            .stream_position()
            .map_err(|error| error.to_string())?;

        // The length is untrusted input: an overflow or a seek backwards would read other data as weights.
        let skipped = i64::from_le_bytes(length).checked_mul(dtype_size(*dtype) as i64);
        let skipped = skipped
            .filter(|&bytes| bytes >= 0)
            .ok_or("a storage has no length")?;

        // Relative, because `BufReader::seek` discards its buffer, and each small storage would
        // cost a request to the store.
        reader
            .seek_relative(skipped)
            .map_err(|error| error.to_string())?;

        starts.insert(key.clone(), start);
    }

    Ok(starts)
}

fn list_stored_tensors(
    file: &Arc<TensorFile>,
    object: &Object,
    place: impl Fn(&TorchTensor) -> Option<DataLocation>,
) -> Result<TensorListing> {
    let damaged = |why: String| file.corrupt_file_error(PYTORCH_FORMAT)(why);
    let stored = |(name, array): (String, TorchTensor)| {
        let outside = || damaged(format!("{name} reaches beyond its storage"));
        let place = place(&array).ok_or_else(outside)?;
        let TorchTensor {
            storage,
            offset,
            shape,
            strides,
        } = array;

        let block = StridedBlock {
            file: file.clone(),
            location: place,
            dtype: storage.dtype,
            shape,
            strides,
        };

        // Checked before any read: strides and offset of a damaged file may lead into the next storage.
        let end = block.span_len().and_then(|span| span.checked_add(offset));
        let fits = end.is_some_and(|end| end <= storage.count);
        let stored = StoredTensor::new(block);
        fits.then_some(()).ok_or_else(outside)?;

        Ok::<_, Error>((name, stored))
    };

    let tensors = pickle::collect_tensors(object)
        .map_err(damaged)?
        .into_iter()
        .map(stored);

    Ok(TensorListing {
        tensors: tensors.collect::<Result<_>>()?,
        recorded_progress: pickle::recorded_progress(object),
    })
}
