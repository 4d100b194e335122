//! Time, bytes read and memory of loading a model's weights on all ranks, from a file of random numbers whose digest is
//! known.
//!
//! `cargo bench -p cnclip-trainer --bench load -- ViT-B-16 --ranks 2` prints one line of JSON with two ways: `read_once`
//! is that of a run, `read_twice_by_all` proves the file on each rank and then reads it again, tensor after tensor.
#![allow(
    clippy::print_stdout,
    reason = "the result of a benchmark is what it prints"
)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use clap::Parser;
use cnclip::weights::{ExpectedContent, ModelPart, Weights, load_weights};
use cnclip_compute::digest::{hex, sha256};
use cnclip_compute::params::{Params, Segment};
use cnclip_crds::model::ModelConfig;
use cnclip_data::store::Store;
use cnclip_distributed::{Communicator, run_on_ranks};
use cnclip_nn::model::clip::{BatchCapacity, Clip};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

#[path = "support/model.rs"]
mod model;
use model::parse_model;

/// Loads the weights of one model.
#[derive(Parser)]
struct Arguments {
    /// A published model, such as ViT-H-14, or a file with the `model` of a configuration as JSON.
    #[arg(value_parser = parse_model)]
    model: ModelConfig,
    /// Ranks of this process, each with weights of its own.
    #[arg(long, default_value_t = 1)]
    ranks: usize,
    /// Given by `cargo bench`.
    #[arg(long)]
    bench: bool,
}

/// The name of the file.
const FILE: &str = "model.safetensors";
/// Bytes of a request of the way that reads twice.
const WINDOW_BYTES: u64 = 64 << 20;

fn main() -> anyhow::Result<()> {
    let Arguments { model, ranks, .. } = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join(FILE);
    write(&file, &allocate(&model))?;
    let store = Store::open(&folder.path().display().to_string())?;
    let expected = ExpectedContent {
        bytes: file.metadata()?.len(),
        sha256: sha256(&store.get(FILE)?),
    };

    let file_bytes = expected.bytes;
    let resident_before = process_bytes("status", "VmRSS:")?;
    // The new way first: the peak of memory is that of the process so far.
    let once = measure(&model, ranks, |communicator, params| {
        if communicator.is_rank_zero() {
            let weights = Weights::open_expected(&store, FILE, expected.clone())?;
            load_weights(params, &weights, ModelPart::All)?;
        }

        communicator.broadcast_tensor(params.values.view_mut())?;
        communicator.broadcast_tensor(params.buffers.view_mut())?;
        Ok(())
    })?;

    let resident_peak = process_bytes("status", "VmHWM:")?;
    let twice = measure(&model, ranks, |_, params| {
        prove(&store, &expected)?;
        let weights = Weights::open(&store, FILE)?;
        for (segment, mut values) in params.named_tensors_mut() {
            if let Some(stored) = weights.get(&segment.name) {
                values.overwrite_with(|values| stored.read_into(values))?;
            }
        }

        Ok(())
    })?;

    assert_eq!(
        once.first_value, twice.first_value,
        "both load the same weights"
    );
    println!(
        "{}",
        json!({
            "model": model.to_string(),
            "ranks": ranks,
            "file_bytes": file_bytes,
            "read_once": once.to_json(),
            "read_twice_by_all": twice.to_json(),
            "bytes_ratio": twice.bytes_read as f64 / once.bytes_read as f64,
            "seconds_ratio": twice.seconds / once.seconds,
            "resident_before_bytes": resident_before,
            "resident_peak_bytes": resident_peak,
        })
    );

    Ok(())
}

/// What one way of loading takes.
struct Measured {
    seconds: f64,
    bytes_read: u64,
    first_value: f32,
}

impl Measured {
    fn to_json(&self) -> Value {
        json!({ "seconds": self.seconds, "bytes_read": self.bytes_read })
    }
}

fn allocate(model: &ModelConfig) -> Params {
    let capacity = BatchCapacity {
        batch: 1,
        context: 8,
    };

    Clip::new(model, capacity).1
}

fn measure(
    model: &ModelConfig,
    ranks: usize,
    load: impl Fn(&Communicator, &mut Params) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Measured> {
    let results = run_on_ranks(ranks, |communicator| {
        let mut params = allocate(model);
        // Touched before the clock runs: the system gives zeroed memory page by page.
        params
            .values
            .view_mut()
            .update_on_host(|values| values.fill(1.0));
        communicator.barrier()?;

        let read_before = process_bytes("io", "rchar:")?;
        let started = Instant::now();
        load(communicator, &mut params)?;
        communicator.barrier()?;
        let seconds = started.elapsed().as_secs_f64();
        let bytes_read = process_bytes("io", "rchar:")? - read_before;
        communicator.barrier()?;

        anyhow::Ok(Measured {
            seconds,
            bytes_read,
            first_value: params.values.to_host()[0],
        })
    })?;

    let mut results = results.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    Ok(results.swap_remove(0))
}

/// Reads a whole file to prove its digest.
fn prove(store: &Store, expected: &ExpectedContent) -> anyhow::Result<()> {
    let mut hash = Sha256::new();
    for start in (0..expected.bytes).step_by(WINDOW_BYTES as usize) {
        let end = expected.bytes.min(start + WINDOW_BYTES);
        hash.update(store.get_range(FILE, start..end)?);
    }

    Ok(expected.expect_digest(FILE, &hex(&hash.finalize()))?)
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

/// A field of a file of `/proc/self`, in bytes.
fn process_bytes(file: &str, field: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let mut words = line.unwrap_or_default().split_whitespace();
    let number: u64 = words
        .next()
        .ok_or_else(|| anyhow::anyhow!("/proc/self/{file} has no {field}"))?
        .parse()?;

    // Fields of `status` end with the unit.
    Ok(if words.next() == Some("kB") {
        number << 10
    } else {
        number
    })
}
