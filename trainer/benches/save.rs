//! How long a checkpoint stops a training: seconds to serialize a model with its EMA and moments in memory, and those of
//! writing the same numbers byte by byte.
//!
//! `cargo bench -p cnclip-trainer --bench save -- ViT-B-16` prints one line of JSON.
#![allow(
    clippy::print_stdout,
    reason = "the result of a benchmark is what it prints"
)]

use std::hint::black_box;
use std::time::Instant;

use clap::Parser;
use cnclip::weights::{write_moments, write_safetensors};
use cnclip_crds::model::ModelConfig;
use cnclip_nn::model::clip::{BatchCapacity, Clip};
use cnclip_nn::optimizer::{AdamW, AdamWSettings};
use serde_json::json;

#[path = "support/model.rs"]
mod model;
use model::parse_model;

const ROUNDS: usize = 5;

/// Serializes one model.
#[derive(Parser)]
struct Arguments {
    /// A published model, such as ViT-B-16, or a file with the `model` of a configuration as JSON.
    #[arg(value_parser = parse_model)]
    model: ModelConfig,
    /// Given by `cargo bench`.
    #[arg(long)]
    bench: bool,
}

fn main() {
    let Arguments { model, .. } = Arguments::parse();
    let capacity = BatchCapacity {
        batch: 1,
        context: 8,
    };

    let (_clip, params) = Clip::new(&model, capacity);
    let settings = AdamWSettings {
        beta_1: 0.9,
        beta_2: 0.98,
        epsilon: 1e-6,
        weight_decay: 0.001,
        max_norm: None,
    };

    let adamw = AdamW::new(&params, settings);
    let mut bytes = 0;
    // Weights, their EMA and the moments, as in a run with an average.
    let serialize = median_seconds(|| {
        let files = [
            write_safetensors(&params),
            write_safetensors(&params),
            write_moments(&params, &adamw),
        ];

        bytes = files.iter().map(Vec::len).sum();
        black_box(files);
    });

    let numbers = vec![1f32; bytes / 4];
    let by_bytes = median_seconds(|| {
        let file: Vec<u8> = numbers
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        black_box(file);
    });

    let line = json!({
        "bytes": bytes,
        "serializeSeconds": serialize,
        "byteByByteSeconds": by_bytes,
        "ratio": serialize / by_bytes,
        "percentAtOneSaveAMinute": 100.0 * serialize / 60.0,
    });

    println!("{line}");
}

fn median_seconds(mut work: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();

    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}
