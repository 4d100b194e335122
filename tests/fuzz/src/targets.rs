//! The targets, by what they read.

mod checkpoints;
mod configurations;
mod features;
mod images;
mod network;
mod operator;
mod readers;
mod shards;
mod tokenizer;
mod weights;

use std::path::Path;

use bytes::Bytes;
use cnclip_data::store::Store;

use crate::FuzzTarget;
use crate::memory::MemoryBound;

/// All targets. A new one needs a line here and a folder below `corpus/`.
pub const TARGETS: &[FuzzTarget] = &[
    parser("tar", shards::tar),
    parser("shard_index", shards::shard_index),
    parser("label", shards::label),
    parser("jsonl_texts", readers::jsonl_texts),
    parser("tsv_images", readers::tsv_images),
    parser("lmdb_images", readers::lmdb_images),
    parser("lmdb_texts", readers::lmdb_texts),
    parser("pickled_pair", readers::pickled_pair),
    parser("safetensors", weights::safetensors),
    parser("pytorch", weights::pytorch),
    parser("pickle", weights::pickle),
    parser("weights_index", weights::weights_index),
    image("png"),
    image("jpeg"),
    image("webp"),
    image("gif"),
    image("bmp"),
    parser("vocabulary", tokenizer::vocabulary),
    parser("text", tokenizer::text),
    parser("feature_files", features::feature_files),
    parser("text_file", features::text_file),
    parser("train_config", configurations::train_config),
    parser("evaluate_config", configurations::evaluate_config),
    parser("model_config", configurations::model_config),
    parser("manifest", checkpoints::manifest),
    parser("state", checkpoints::state),
    parser("history", checkpoints::history),
    parser("training", operator::training),
    parser("evaluation", operator::evaluation),
    parser("report", operator::report),
    parser("control_message", network::control_message),
    parser("uri", network::uri),
    parser("final_checkpoint", checkpoints::final_checkpoint),
    parser("class_files", features::class_files),
];

const fn parser(name: &'static str, check: fn(&[u8]) -> bool) -> FuzzTarget {
    FuzzTarget {
        name,
        memory: MemoryBound::PARSER,
        check,
    }
}

/// One target for each format, because each needs a corpus of its own to be explored.
const fn image(name: &'static str) -> FuzzTarget {
    FuzzTarget {
        name,
        memory: MemoryBound::IMAGE,
        check: images::image,
    }
}

/// Puts an object into a store in memory.
fn put(store: &Store, name: &str, data: &[u8]) {
    store
        .put(name, Bytes::copy_from_slice(data))
        .expect("a store in memory takes every object");
}

/// Passes the path of a file with these bytes, for parsers that read from a path. The file is alone in its folder.
fn with_file(name: &str, data: &[u8], read: impl FnOnce(&Path) -> bool) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join(name);
    std::fs::write(&path, data).expect("a temporary file can be written");
    read(&path)
}
