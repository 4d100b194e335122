//! The tensors that a file of PyTorch lists: an archive, TorchScript's among them, or the stream
//! that PyTorch wrote before 1.6. Runs nothing of what it reads.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek};
use std::sync::Arc;

use candle_core::pickle::Object;
use zip::ZipArchive;

use super::dtype_convert::dtype_size;
use super::pickle::{self, TorchTensor};
use super::stored_tensor::{StoredTensor, StridedBlock, span_len};
use super::tensor_file::{DataLocation, TensorFile, TensorListing};
use crate::error::{Error, Result};

/// What these files are called in messages.
pub(super) const PYTORCH_FORMAT: &str = "PyTorch checkpoint";

/// How the stream begins: the number that PyTorch put there, pickled.
pub(super) const LEGACY_MAGIC: [u8; 15] = [
    0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.',
];

const OUTSIDE_STORAGE: &str = "reaches beyond its storage";

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
        let start = byte_offset(array)?;
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
        let start = starts.get(&array.storage.key)?;
        Some(DataLocation::Offset(
            start.checked_add(byte_offset(array)?)?,
        ))
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

/// Where in its storage an array begins; `None` if no storage is so long.
fn byte_offset(array: &TorchTensor) -> Option<u64> {
    let size = dtype_size(array.storage.dtype);
    array.offset.checked_mul(size).map(|offset| offset as u64)
}

fn list_stored_tensors(
    file: &Arc<TensorFile>,
    object: &Object,
    place: impl Fn(&TorchTensor) -> Option<DataLocation>,
) -> Result<TensorListing> {
    let damaged = |why: String| file.corrupt_file_error(PYTORCH_FORMAT)(why);
    let stored = |(name, array): (String, TorchTensor)| {
        // Checked before any read: the numbers of a damaged file may lead into the next storage, or ask for more
        // memory than there is.
        let invalid = |why: &str| damaged(format!("{name} {why}"));
        check_extent(&array, file.size).map_err(invalid)?;
        let location = place(&array).ok_or_else(|| invalid(OUTSIDE_STORAGE))?;
        let TorchTensor {
            storage,
            shape,
            strides,
            ..
        } = array;

        let block = StridedBlock {
            file: file.clone(),
            location,
            dtype: storage.dtype,
            shape,
            strides,
        };

        Ok::<_, Error>((name, StoredTensor::new(block)))
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

/// # Errors
/// If an array is more than its storage holds, or its storage more than a file of this size.
fn check_extent(array: &TorchTensor, file_size: u64) -> Result<(), &'static str> {
    let TorchTensor {
        storage,
        offset,
        shape,
        strides,
    } = array;

    // An axis with a stride of 0 repeats what is there, as often as its size says.
    let count = shape
        .iter()
        .try_fold(1usize, |count, &size| count.checked_mul(size));
    if count.is_none_or(|count| count > storage.count) {
        return Err("has more numbers than its storage; save it with .contiguous()");
    }

    let end = span_len(shape, strides).and_then(|span| span.checked_add(*offset));
    if count != Some(0) && end.is_none_or(|end| end > storage.count) {
        return Err(OUTSIDE_STORAGE);
    }

    let bytes = storage.count.checked_mul(dtype_size(storage.dtype));
    match bytes {
        Some(bytes) if bytes as u64 <= file_size => Ok(()),
        _ => Err("lies in a storage that is larger than the file"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use cnclip_data::store::Store;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::super::Weights;
    use super::super::tensor_reader::TensorReader;
    use super::*;

    /// The pickle of `{"a": tensor}` as PyTorch writes it, the tensor on a storage of floats.
    fn pickle(offset: i64, shape: &[i64], strides: &[i64], storage_count: i64) -> Vec<u8> {
        let number = |number: i64| [&b"\x8A\x08"[..], &number.to_le_bytes()].concat();
        let tuple = |numbers: &[i64]| {
            let numbers: Vec<_> = numbers.iter().copied().map(number).collect();
            [&b"("[..], &numbers.concat(), b"t"].concat()
        };

        [
            &b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n("[..],
            b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu",
            &number(storage_count),
            b"tQ",
            &number(offset),
            &tuple(shape),
            &tuple(strides),
            b"\x89NtRs.",
        ]
        .concat()
    }

    /// The values of `a` in an archive whose storage holds 0, 1, 2 … 15.
    fn read(pickle: &[u8]) -> Result<Vec<f32>> {
        let numbers: Vec<u8> = (0..16u8)
            .flat_map(|number| f32::from(number).to_le_bytes())
            .collect();

        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let options =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, bytes) in [("m/data.pkl", pickle), ("m/data/0", &numbers)] {
            archive.start_file(name, options).unwrap();
            archive.write_all(bytes).unwrap();
        }

        let store = Store::in_memory();
        let archive = archive.finish().unwrap().into_inner();
        store.put("m.pt", archive.into()).unwrap();
        let weights = Weights::open(&store, "m.pt")?;
        let mut reader = TensorReader::direct();
        Ok(weights.get("a").unwrap().to_tensor(&mut reader)?.values)
    }

    #[test]
    fn an_array_is_read_by_its_strides() {
        assert_eq!(read(&pickle(3, &[2], &[1], 16)).unwrap(), [3.0, 4.0]);
        let transposed = read(&pickle(0, &[2, 3], &[1, 2], 6)).unwrap();
        assert_eq!(transposed, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
        assert!(read(&pickle(0, &[0, 5], &[5, 1], 0)).unwrap().is_empty());
    }

    #[test]
    fn an_array_that_its_storage_does_not_hold_takes_no_memory() {
        let table = [
            (
                pickle(0, &[1 << 40], &[0], 16),
                "save it with .contiguous()",
            ),
            (
                pickle(0, &[1 << 40, 1 << 40], &[0, 0], 16),
                "save it with .contiguous()",
            ),
            (pickle(0, &[1 << 40], &[1], 1 << 40), "larger than the file"),
            (
                pickle((1 << 62) + 1, &[1], &[1], (1 << 62) + 2),
                "larger than the file",
            ),
            (pickle(16, &[1], &[1], 16), "reaches beyond its storage"),
            (pickle(0, &[2], &[16], 16), "reaches beyond its storage"),
            (
                pickle(16, &[1], &[1], 17),
                "64 bytes, too few for its tensor",
            ),
        ];

        for (pickle, words) in table {
            let error = read(&pickle).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert!(matches!(error, Error::Data(_)), "{error}");
        }
    }
}
