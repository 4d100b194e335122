//! What bfloat16 changes of a training: the same run in fp32, with products in bfloat16 and the residual stream in fp32
//! (as PyTorch's autocast computes), and with all activations in bfloat16, the residual stream too (as devices compute
//! here), each for several seeds.
//!
//! `cargo bench -p cnclip-trainer --bench precision -- --dataset D --validation V --vocabulary vocab.txt` prints one line
//! of JSON for each run and one that compares the differences between precisions with those between seeds.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "the result of a benchmark is what it prints"
)]

use std::path::{Path, PathBuf};

use clap::Parser;
use cnclip::progress::{ReportOutputs, Reporter};
use cnclip::train::train_stage_with_memory;
use cnclip_compute::digest::sha256;
use cnclip_compute::tensor::Memory;
use cnclip_crds::stage::Precision;
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_emulator::Emulator;
use serde_json::{Value, json};

/// Memory of the emulated device, in bytes.
const DEVICE_BYTES: u64 = 1 << 34;
/// The last part of the steps, over which the loss is averaged.
const LAST_PART: f64 = 0.1;

/// Trains one model in two precisions.
#[derive(Parser)]
struct Arguments {
    /// Shards to train on.
    #[arg(long)]
    dataset: String,
    /// Shards to validate on.
    #[arg(long)]
    validation: String,
    /// The vocabulary of the texts.
    #[arg(long)]
    vocabulary: PathBuf,
    /// Optimizer steps.
    #[arg(long, default_value_t = 1000)]
    steps: u64,
    /// Layers of the image tower; 24 are those of ViT-L-14.
    #[arg(long, default_value_t = 24)]
    layers: u32,
    /// Layers of the text tower, whose norms after each sum make it hard to train from scratch.
    #[arg(long, default_value_t = 4)]
    text_layers: u32,
    /// Width of both towers.
    #[arg(long, default_value_t = 64)]
    width: u32,
    /// Side of a patch, of images of 32 pixels.
    #[arg(long, default_value_t = 16)]
    patch: u32,
    /// Pairs of a step.
    #[arg(long, default_value_t = 32)]
    batch: u32,
    /// Runs of each precision.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Given by `cargo bench`.
    #[arg(long)]
    bench: bool,
}

/// How a run computes.
#[derive(Clone, Copy, Debug)]
enum Variant {
    /// Everything in fp32.
    Fp32,
    /// Products in bfloat16; the residual stream in fp32.
    Bf16Products,
    /// Products and activations in bfloat16.
    Bf16Activations,
}

impl Variant {
    fn precision(self) -> Precision {
        match self {
            Self::Fp32 => Precision::Fp32,
            Self::Bf16Products | Self::Bf16Activations => Precision::Bf16,
        }
    }

    fn open_memory(self) -> Memory {
        match self {
            // The CPU rounds the operands of products, and keeps all else in fp32.
            Self::Fp32 | Self::Bf16Products => Memory::Host,
            Self::Bf16Activations => {
                Memory::Device(Emulator::new_device(DEVICE_BYTES), self.precision())
            }
        }
    }
}

/// What a run ended with.
#[derive(Clone, Copy)]
struct Outcome {
    /// Mean of the last steps, in nats.
    loss: f64,
    /// Mean of R@1, R@5 and R@10 in both directions, in percent.
    recall: f64,
}

fn main() {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir().unwrap();
    let train_all = |variant| -> Vec<Outcome> {
        (1..=arguments.seeds)
            .map(|seed| train(&arguments, folder.path(), seed, variant))
            .collect()
    };

    let fp32 = train_all(Variant::Fp32);
    let products = train_all(Variant::Bf16Products);
    let activations = train_all(Variant::Bf16Activations);

    let summary = json!({
        "bench": "precision",
        "steps": arguments.steps,
        "layers": arguments.layers,
        "width": arguments.width,
        "spreadOfSeeds": {
            "loss": spread(fp32.iter().map(|outcome| outcome.loss)),
            "recall": spread(fp32.iter().map(|outcome| outcome.recall)),
        },
        "bf16Products": mean_difference(&products, &fp32),
        "bf16Activations": mean_difference(&activations, &fp32),
    });

    println!("{summary}");
}

fn mean_difference(found: &[Outcome], fp32: &[Outcome]) -> Value {
    let pairs = || found.iter().zip(fp32);
    json!({
        "loss": mean(pairs().map(|(found, fp32)| found.loss - fp32.loss)),
        "recall": mean(pairs().map(|(found, fp32)| found.recall - fp32.recall)),
    })
}

fn train(arguments: &Arguments, folder: &Path, seed: u64, variant: Variant) -> Outcome {
    let name = format!("{variant:?}-{seed}").to_lowercase();
    let config = run_config(arguments, folder, &name, seed, variant.precision());
    let reporter = Reporter::start(config.run.clone(), ReportOutputs::default()).unwrap();
    let memory = variant.open_memory();
    let open_memory = |_| Ok(memory.clone());
    train_stage_with_memory(&config, &reporter, || false, &open_memory).unwrap();

    let outcome = read_outcome(&folder.join(&name).join("train/metrics.jsonl"), arguments);
    let line = json!({
        "bench": "precision",
        "variant": format!("{variant:?}"),
        "seed": seed,
        "loss": outcome.loss,
        "recall": outcome.recall,
    });

    println!("{line}");
    outcome
}

fn run_config(
    arguments: &Arguments,
    folder: &Path,
    name: &str,
    seed: u64,
    precision: Precision,
) -> TrainConfig {
    let vocabulary = std::fs::read(&arguments.vocabulary).unwrap();
    let entries = vocabulary.split(|byte| *byte == b'\n');
    let entries = entries.filter(|line| !line.is_empty()).count();
    let (layers, width) = (arguments.layers, arguments.width);

    let config = json!({
        "run": {"name": name, "uid": "", "stage": "train", "attempt": 1},
        "model": {
            "embedDim": width,
            "image": {
                "resolution": 32,
                "vit": {"layers": layers, "width": width, "patchSize": arguments.patch, "headWidth": 32},
            },
            "text": {
                "vocabSize": entries,
                "layers": arguments.text_layers,
                "width": width,
                "heads": width / 32,
                "intermediate": 4 * width,
                "positions": 32,
                "hiddenDropoutPercent": 10,
                "attentionDropoutPercent": 10,
            },
        },
        "contextLength": 12,
        "vocabulary": {
            "uri": arguments.vocabulary.display().to_string(),
            "sha256": sha256(&vocabulary),
        },
        "dataset": arguments.dataset,
        "length": {"steps": arguments.steps},
        "globalBatchSize": arguments.batch,
        "optimizer": {
            "learningRate": 1e-3,
            "warmupSteps": arguments.steps / 10,
            "weightDecay": 0.001,
            "beta1": 0.9,
            "beta2": 0.98,
            "epsilon": 1e-6,
        },
        "maxSkippedSteps": 10,
        "augmentation": "None",
        "validation": {"dataset": arguments.validation, "everySteps": arguments.steps},
        "checkpoint": {"everySteps": arguments.steps, "keep": 1},
        "artifacts": folder.join(name).display().to_string(),
        "seed": seed,
        "maxSkippedPercent": 1.0,
        "reportEverySteps": 10,
        "world": {"replicas": 1, "devices": 1, "accelerator": "None", "precision": precision},
    });

    serde_json::from_value(config).unwrap()
}

fn read_outcome(curves: &Path, arguments: &Arguments) -> Outcome {
    let text = std::fs::read_to_string(curves).unwrap();
    let points: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();

    let first = arguments.steps as f64 * (1.0 - LAST_PART);
    let losses = points
        .iter()
        .filter(|point| point["step"].as_f64().unwrap() > first)
        .filter_map(|point| point["loss"].as_f64());

    let recalls = points
        .iter()
        .filter_map(|point| point["recalls"].as_object())
        .next_back()
        .unwrap();

    Outcome {
        loss: mean(losses),
        recall: mean(numbers(&Value::Object(recalls.clone())).into_iter()),
    }
}

/// All numbers in a value.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Object(fields) => fields.values().flat_map(numbers).collect(),
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        other => other.as_f64().into_iter().collect(),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// The largest minus the smallest.
fn spread(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    let largest = values.iter().copied().fold(f64::MIN, f64::max);
    let smallest = values.iter().copied().fold(f64::MAX, f64::min);
    largest - smallest
}
