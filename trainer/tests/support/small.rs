//! A run that takes a second: a tiny model on the golden data set.

use std::path::{Path, PathBuf};

use cnclip::checkpoint::WEIGHTS_FILE;
use cnclip::model_resolver;
use cnclip::weights::TensorMap;
use cnclip_compute::digest::sha256;
use cnclip_crds::model::{ImageTower, ModelConfig, ResnetConfig, TextTower};
use cnclip_crds::trainer_config::{PinnedFile, TrainConfig};
use cnclip_data::prepare::{self, prepare_dataset};
use cnclip_data::readers::DatasetReader;
use cnclip_data::store::Store;
use serde_json::json;

pub(crate) const STEPS: u64 = 8;

/// A tiny model with everything that must survive a stop: batch normalisation's running statistics,
/// dropout, augmentation, and an epoch that ends between two steps.
pub(crate) fn train_config(folder: &Path, name: &str) -> TrainConfig {
    // As JSON, so that a new field with a default needs no line here.
    let config = json!({
        "run": {"name": name, "uid": "", "stage": "train", "attempt": 1},
        "model": model(),
        "contextLength": 12,
        "vocabulary": vocabulary(folder),
        "dataset": write_dataset(&folder.join("data"), 0),
        "length": {"steps": STEPS},
        "globalBatchSize": 5,
        "optimizer": {
            "learningRate": 1e-3,
            "warmupSteps": 2,
            "weightDecay": 0.1,
            "beta1": 0.9,
            "beta2": 0.98,
            "epsilon": 1e-6,
        },
        "maxSkippedSteps": 10,
        "augmentation": "AutoAugment",
        "validation": {"dataset": write_dataset(&folder.join("data"), 0), "everySteps": 5},
        "checkpoint": {"everySteps": 3, "keep": 2},
        "artifacts": folder.join(name).display().to_string(),
        "seed": 7,
        "maxSkippedPercent": 20.0,
        "reportEverySteps": 1,
    });

    serde_json::from_value(config).unwrap()
}

fn model() -> ModelConfig {
    ModelConfig {
        embed_dim: 6,
        image: ImageTower {
            resolution: 32,
            vit: None,
            resnet: Some(ResnetConfig {
                layers: vec![1, 1, 1, 1],
                width: 4,
            }),
        },
        text: TextTower {
            vocab_size: 7,
            layers: 1,
            width: 10,
            heads: 2,
            intermediate: 14,
            positions: 12,
            hidden_dropout_percent: 10,
            attention_dropout_percent: 10,
        },
    }
}

fn vocabulary(folder: &Path) -> PinnedFile {
    let path = folder.join("vocab.txt");
    let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n长\n的\nab\n";
    std::fs::write(&path, words).unwrap();
    PinnedFile {
        uri: path.display().to_string(),
        sha256: sha256(words.as_bytes()),
    }
}

/// Shards of the golden data set; another `variant` has other bytes.
pub(crate) fn write_dataset(folder: &Path, variant: u64) -> String {
    // A test program that was carried to another machine is told where the tree is there.
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let golden = std::env::var("CNCLIP_GOLDEN").unwrap_or_else(|_| here.to_owned());
    let golden = Path::new(&golden).join("dataset");
    let images = golden.join("train_imgs.tsv");
    let texts = golden.join("train_texts.jsonl");
    let store = Store::open(folder.to_str().unwrap()).unwrap();
    let options = prepare::PrepareOptions {
        shard_bytes: (14 + 9 * variant) << 10,
        max_skipped_ratio: 0.1,
        ..prepare::PrepareOptions::default()
    };

    let reader = DatasetReader::open_files(&images, &texts).unwrap();
    prepare_dataset(reader, &store, &options, |_| ()).unwrap();
    folder.display().to_string()
}

/// The prefix of a run's stage.
pub(crate) fn stage_uri(folder: &Path, name: &str) -> String {
    folder.join(name).join("train").display().to_string()
}

/// The checkpoints of a run, oldest first.
pub(crate) fn checkpoints(folder: &Path, name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join(name).join("train/checkpoints")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.join("manifest.json").exists());
    paths.sort();

    paths
}

pub(crate) fn newest_checkpoint(folder: &Path, name: &str) -> PathBuf {
    checkpoints(folder, name).pop().unwrap()
}

/// The bytes of the last weights.
pub(crate) fn final_weights(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(newest_checkpoint(folder, name).join(WEIGHTS_FILE)).unwrap()
}

/// The weights that a run ended with, as a later stage finds them.
pub(crate) fn final_tensors(folder: &Path, name: &str) -> TensorMap {
    model_resolver::resolve_weights(&stage_uri(folder, name))
        .unwrap()
        .tensors
        .to_tensors()
        .unwrap()
}

/// Of each validation the step and the recalls, and the step of the checkpoint that the stage ended with.
#[allow(dead_code, reason = "not every test program looks at validations")]
pub(crate) fn validations(folder: &Path, name: &str) -> Vec<serde_json::Value> {
    let stage = folder.join(name).join("train");
    let curves = std::fs::read_to_string(stage.join("metrics.jsonl")).unwrap();
    let last = std::fs::read_to_string(stage.join("final.json")).unwrap();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();

    let points = curves
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let measured = points.filter(|point: &serde_json::Value| !point["recalls"].is_null());
    measured
        .map(|point| json!([point["step"], point["recalls"], last["step"]]))
        .collect()
}

pub(crate) fn flip_a_byte(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}
