//! The tensors that a safetensors file lists in its header.

use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorInfo};

use super::stored_tensor::{StoredTensor, StridedBlock, row_major_strides};
use super::tensor_file::{DataLocation, StoredTensorMap, TensorFile};
use crate::error::Result;

/// Longer headers are refused, as the library does: the length is read from the file, and memory for the
/// header is taken on its word.
const MAX_HEADER_BYTES: u64 = 100 << 20;

/// # Errors
/// If the header is none, or promises more or less than the file holds.
pub(super) fn list_safetensors(mut file: TensorFile) -> Result<StoredTensorMap> {
    let damaged = file.corrupt_file_error("safetensors file");
    // Eight bytes of length, that many of JSON, then the values. A file shorter than eight bytes fails in
    // `try_into`, so that the subtraction below cannot underflow.
    let prefix = file.read_head(8)?;
    let length = (&prefix[..])
        .try_into()
        .map(u64::from_le_bytes)
        .ok()
        .filter(|&length| length <= MAX_HEADER_BYTES.min(file.size - 8))
        .ok_or_else(|| damaged("it ends within its header".to_owned()))?;

    let header = file.read_head(8 + length)?;
    let header: Metadata =
        serde_json::from_slice(&header[8..]).map_err(|error| damaged(error.to_string()))?;
    // The library checked that tensors lie one behind the other without gaps; that the file is as long as
    // they are is found here, not at the last tensor after minutes of reading.
    let promised = header.data_len() as u64;
    let held = file.size - 8 - length;

    if promised != held {
        return Err(damaged(format!(
            "it holds {held} bytes of values instead of {promised}"
        )));
    }

    let file = Arc::new(file);
    let stored = |info: &TensorInfo| {
        StoredTensor::new(StridedBlock {
            file: file.clone(),
            location: DataLocation::Offset(8 + length + info.data_offsets.0 as u64),
            dtype: info.dtype,
            shape: info.shape.clone(),
            strides: row_major_strides(&info.shape),
        })
    };

    Ok(header
        .tensors()
        .into_iter()
        .map(|(name, info)| (name, stored(info)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::Weights;

    #[test]
    fn bytes_that_are_no_safetensors_are_an_error() {
        let header = br#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let file = |length: u64, rest: &[u8]| [&length.to_le_bytes(), rest].concat();
        let cut = [&header[..], &[0; 7]].concat();
        let table = [
            (b"short".to_vec(), "ends within its header"),
            (file(1 << 60, header), "ends within its header"),
            (file(3, b"{,}"), "key must be a string"),
            (
                file(header.len() as u64, &cut),
                "it holds 7 bytes of values instead of 8",
            ),
        ];

        for (bytes, right) in table {
            let error = Weights::from_bytes(bytes).unwrap_err().to_string();
            assert!(
                error.contains("bytes.safetensors is no readable safetensors"),
                "{error}"
            );

            assert!(error.contains(right), "{error}");
        }
    }
}
