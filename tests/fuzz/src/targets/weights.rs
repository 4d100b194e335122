//! Weight files: safetensors, PyTorch's archives and streams, and Hugging Face's index of several files.

use std::io::{Cursor, Write};

use cnclip::weights::{DetectedTowers, ModelPart, Weights, list_shard_files, summarize_ignored};
use cnclip_data::store::Store;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

pub(super) fn safetensors(data: &[u8]) -> bool {
    read_weights("model.safetensors", data)
}

pub(super) fn pytorch(data: &[u8]) -> bool {
    read_weights("model.pt", data)
}

/// The pickle of an archive: mutations of a whole archive rarely reach it, because of lengths and checksums.
pub(super) fn pickle(data: &[u8]) -> bool {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    // As PyTorch writes them.
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("m/data.pkl", data), ("m/data/0", &[0; 64])] {
        archive
            .start_file(name, options)
            .and_then(|()| Ok(archive.write_all(bytes)?))
            .expect("an archive in memory takes what is put into it");
    }

    let archive = archive
        .finish()
        .expect("an archive in memory takes what is put into it");

    read_weights("model.pt", &archive.into_inner())
}

pub(super) fn weights_index(data: &[u8]) -> bool {
    const SHARD: &[u8] = include_bytes!("../../corpus/safetensors/reference.safetensors");

    let names = list_shard_files("memory://index", data);
    let store = Store::in_memory();
    super::put(&store, "model.safetensors", SHARD);
    super::put(&store, "model.safetensors.index.json", data);
    let weights = Weights::open(&store, "model.safetensors.index.json");
    assert!(weights.is_err() || names.is_ok());
    weights.is_ok_and(|weights| read_tensors(&weights))
}

fn read_weights(name: &str, data: &[u8]) -> bool {
    let store = Store::in_memory();
    super::put(&store, name, data);
    Weights::open(&store, name).is_ok_and(|weights| read_tensors(&weights))
}

/// Reads all tensors; says whether one can be read.
fn read_tensors(weights: &Weights) -> bool {
    let towers = DetectedTowers::from_weights(weights, None);
    let _ = (towers.to_string(), towers.model_config());
    let _ = summarize_ignored(weights, ModelPart::Image);

    let mut is_any_read = false;
    for name in weights.tensor_names() {
        let stored = weights.get(name).expect("it is listed");
        let _ = stored.dtype_name();
        let mut values = vec![0.0; stored.element_count()];
        is_any_read |= stored.read_into(&mut values).is_ok();
    }

    if let Ok(tensors) = weights.to_tensors() {
        for (name, tensor) in tensors {
            let stored = weights.get(&name).expect("it is listed");
            assert_eq!(tensor.shape, stored.shape());
            assert_eq!(tensor.values.len(), stored.element_count());
        }
    }

    is_any_read
}
