//! Seconds and memory of loading a model's weights from a file of random numbers.
//!
//! `cargo bench -p cnclip-trainer --bench load -- ViT-H-14` prints one line of JSON.
#![allow(
    clippy::print_stdout,
    reason = "the result of a benchmark is what it prints"
)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use clap::Parser;
use cnclip::model_resolver;
use cnclip::weights::{ModelPart, load_weights};
use cnclip_compute::params::{Params, Segment};
use cnclip_crds::model::ModelConfig;
use cnclip_nn::model::clip::{BatchCapacity, Clip};
use serde_json::{Map, Value, json};

#[path = "support/model.rs"]
mod model;
use model::parse_model;

/// Loads the weights of one model.
#[derive(Parser)]
struct Arguments {
    /// A published model, such as ViT-H-14, or a file with the `model` of a configuration as JSON.
    #[arg(value_parser = parse_model)]
    model: ModelConfig,
    /// Given by `cargo bench`.
    #[arg(long)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let Arguments { model, .. } = Arguments::parse();
    let (_clip, mut params) = Clip::new(
        &model,
        BatchCapacity {
            batch: 1,
            context: 8,
        },
    );

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("model.safetensors");
    write(&file, &params)?;
    let bytes = file.metadata()?.len();
    let before = resident("VmRSS:")?;
    let started = Instant::now();
    let found = model_resolver::resolve_weights(&file.display().to_string())?;

    load_weights(&mut params, &found.tensors, ModelPart::All)?;
    let seconds = started.elapsed().as_secs_f64();
    let peak = resident("VmHWM:")?;
    println!(
        "{}",
        json!({
            "model": model.to_string(),
            "file_bytes": bytes,
            "seconds": seconds,
            "resident_before_bytes": before,
            "resident_peak_bytes": peak,
            "peak_to_file": peak as f64 / bytes as f64,
            "first_value": params.values.to_host()[0],
        })
    );

    Ok(())
}

/// Writes random numbers under the names of the model's tensors, one tensor after the other.
fn write(path: &Path, params: &Params) -> anyhow::Result<()> {
    let tensors = || params.named_tensors().map(|(segment, _)| segment);
    // Written as they are made: the file is as large as the model, and the memory of loading it is what is measured.
    let mut header = Map::new();
    let mut end = 0;

    for segment in tensors() {
        let start = end;
        end += 4 * segment.range.len();
        let entry = json!({ "dtype": "F32", "shape": segment.shape, "data_offsets": [start, end] });
        header.insert(segment.name.clone(), entry);
    }

    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;

    for (at, segment) in tensors().enumerate() {
        write_noise(&mut file, at as u32, segment)?;
    }

    Ok(file.flush()?)
}

fn write_noise(file: &mut impl Write, seed: u32, segment: &Segment) -> std::io::Result<()> {
    for at in 0..segment.range.len() as u32 {
        // Knuth's multiplicative hash: any numbers will do that neither compress nor repeat.
        let noise = (at ^ seed << 20).wrapping_mul(2_654_435_761) >> 8;
        file.write_all(&(noise as f32 / (1 << 24) as f32 - 0.5).to_le_bytes())?;
    }

    Ok(())
}

/// A field of `/proc/self/status`, in bytes.
fn resident(field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.ok_or_else(|| anyhow::anyhow!("/proc/self/status has no {field}"))? << 10)
}
