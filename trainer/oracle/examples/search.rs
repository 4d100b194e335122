//! Finds the images of a folder that a Chinese sentence describes, with a checkpoint of the trainer in
//! plain candle:
//!
//! `cargo run --release -p cnclip-oracle --example search -- --model CHECKPOINT --images FOLDER
//! --vocabulary vocab.txt 一只猫`

#![allow(clippy::print_stdout, reason = "the result of the program")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use clap::Parser;
use cnclip_crds::model::ModelConfig;
use cnclip_data::image::preprocess::preprocess_for_eval;
use cnclip_data::tokenizer::{Tokenizer, Vocabulary};
use cnclip_oracle::{ChineseClip, normalize_pixels};
use serde_json::Value;

/// Images encoded at once.
const BATCH: usize = 16;

/// Find the images of a folder that a sentence describes.
#[derive(Debug, Parser)]
struct Arguments {
    /// A checkpoint of `cnclip train`: a folder with `weights.safetensors` and `config.json`.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A folder of images: JPEG, PNG, WebP, BMP or GIF.
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// The vocabulary that the model was trained with.
    #[arg(long, value_name = "FILE")]
    vocabulary: PathBuf,
    /// Images to list.
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// What to look for.
    sentence: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let checkpoint = Checkpoint::load(&arguments.model)?;
    let query = encode_sentence(&checkpoint, &arguments)?;
    let side = checkpoint.config.image.resolution as usize;

    let paths = list_files(&arguments.images)?;
    let mut scored = Vec::new();
    for paths in paths.chunks(BATCH) {
        let (paths, pixels) = read_images(paths, side)?;
        if paths.is_empty() {
            continue;
        }

        // Features are unit vectors: their product is the cosine.
        let features = checkpoint.model.encode_image(&pixels)?;
        let cosines = features.matmul(&query.t()?)?.flatten_all()?;
        scored.extend(cosines.to_vec1::<f32>()?.into_iter().zip(paths));
    }

    ensure!(
        !scored.is_empty(),
        "{} holds no image that can be decoded",
        arguments.images.display()
    );

    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (cosine, path) in scored.iter().take(arguments.top) {
        println!("{cosine:.4}  {}", path.display());
    }

    Ok(())
}

/// A model of the trainer, in candle.
struct Checkpoint {
    model: ChineseClip,
    config: ModelConfig,
    /// Tokens of the longest text in training.
    context_length: usize,
}

impl Checkpoint {
    fn load(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };

        // The configuration of the training; the towers are its `model`.
        let folder_name = folder.display();
        let training: Value = serde_json::from_slice(&read("config.json")?)
            .with_context(|| format!("{folder_name}/config.json is not JSON"))?;
        let config: ModelConfig = serde_json::from_value(training["model"].clone())
            .with_context(|| format!("{folder_name}/config.json has no towers under `model`"))?;
        let context_length = training["contextLength"]
            .as_u64()
            .with_context(|| format!("{folder_name}/config.json has no `contextLength`"))?;

        let weights = read("weights.safetensors")?;
        let vb = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)
            .with_context(|| format!("{folder_name}/weights.safetensors is damaged"))?;
        let model = ChineseClip::new(&config, vb).with_context(|| {
            format!("{folder_name}: weights.safetensors does not fit config.json")
        })?;

        Ok(Self {
            model,
            config,
            context_length: context_length as usize,
        })
    }
}

/// The unit feature of the sentence: `[1, features]`.
fn encode_sentence(checkpoint: &Checkpoint, arguments: &Arguments) -> Result<Tensor> {
    let path = &arguments.vocabulary;
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let vocabulary = Vocabulary::from_bytes(&bytes)?;
    let entries = vocabulary.vocab_size();
    let known = checkpoint.config.text.vocab_size as usize;
    ensure!(
        entries <= known,
        "{} has {entries} entries, and the model {known}",
        path.display(),
    );

    let ids = Tokenizer::new(vocabulary).encode(&arguments.sentence, checkpoint.context_length);
    let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
    Ok(checkpoint.model.encode_text(&ids)?)
}

fn list_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            paths.push(path);
        }
    }

    paths.sort();
    Ok(paths)
}

/// The files that are images, and their pixels: `[images, 3, side, side]`.
fn read_images(paths: &[PathBuf], side: usize) -> Result<(Vec<&PathBuf>, Tensor)> {
    let mut images = Vec::new();
    let mut planes = Vec::new();
    for path in paths {
        let bytes = std::fs::read(path)?;
        // A folder may hold other files too.
        if let Ok(decoded) = preprocess_for_eval(&bytes, side) {
            images.push(path);
            planes.extend(decoded);
        }
    }

    let shape = (images.len(), 3, side, side);
    let bytes = Tensor::from_vec(planes, shape, &Device::Cpu)?;
    Ok((images, normalize_pixels(&bytes)?))
}
