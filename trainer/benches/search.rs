//! Seconds and memory of searching every candidate for every query, on vectors that another program wrote.
//!
//! `cargo bench -p cnclip-trainer --bench search -- --queries F --candidates F --width 512` prints one line of
//! JSON; tests/search compares it with NumPy and FAISS.
#![allow(
    clippy::print_stdout,
    reason = "the result of a benchmark is what it prints"
)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use cnclip::progress::process_memory;
use cnclip_compute::nearest_neighbors::{FeatureMatrix, nearest_neighbors};
use serde_json::json;

/// Searches files of fp32 numbers.
#[derive(Parser)]
struct Arguments {
    /// Vectors of the queries.
    #[arg(long)]
    queries: PathBuf,
    /// Vectors of the candidates.
    #[arg(long)]
    candidates: PathBuf,
    /// Numbers in each vector.
    #[arg(long)]
    width: usize,
    /// How many candidates are found for each query.
    #[arg(long, default_value_t = 10)]
    count: usize,
    /// Threads that search.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Given by `cargo bench`.
    #[arg(long)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let Arguments {
        queries,
        candidates,
        width,
        count,
        threads,
        ..
    } = Arguments::parse();

    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()?;

    let queries = read(&queries)?;
    let candidates = read(&candidates)?;
    let queries = FeatureMatrix::new(&queries, width);
    let candidates = FeatureMatrix::new(&candidates, width);
    let before = peak()?;
    let started = Instant::now();
    let found = nearest_neighbors(queries, candidates, count);
    let seconds = started.elapsed().as_secs_f64();

    let found: Vec<Vec<usize>> = found
        .into_iter()
        .map(|row| row.into_iter().map(|near| near.index).collect())
        .collect();

    println!(
        "{}",
        json!({
            "queries": queries.count(),
            "candidates": candidates.count(),
            "width": width,
            "threads": threads,
            "seconds": seconds,
            "queries_per_second": queries.count() as f64 / seconds,
            "peak_bytes": peak()?,
            "peak_beyond_vectors_bytes": peak()?.saturating_sub(before),
            "found": found,
        })
    );

    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<f32>> {
    let mut numbers = vec![0.0f32; path.metadata()?.len() as usize / 4];
    let mut file = std::fs::File::open(path)?;
    std::io::Read::read_exact(&mut file, bytemuck::cast_slice_mut(&mut numbers))?;
    Ok(numbers)
}

fn peak() -> anyhow::Result<i64> {
    process_memory::peak_resident_bytes()
        .context("the kernel does not say how much memory was held")
}
