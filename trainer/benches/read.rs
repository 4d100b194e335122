//! How fast objects of a folder are read: seconds of `Store::get` over those of `std::fs::read` of the same files, which
//! the page cache holds.
//!
//! `cargo bench -p cnclip-trainer --bench read` prints one line of JSON.
#![allow(
    clippy::print_stdout,
    reason = "the result of a benchmark is what it prints"
)]

use std::hint::black_box;
use std::time::Instant;

use cnclip_data::store::Store;
use serde_json::json;

const ROUNDS: usize = 9;
/// Small ones are labels and manifests, the others shards of one request and of several.
const SIZES: [usize; 3] = [64 << 10, 12 << 20, 64 << 20];
const BYTES_PER_ROUND: usize = 192 << 20;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(&folder.path().display().to_string())?;
    let mut lines = vec![];

    for size in SIZES {
        let name = format!("{size}");
        let file = folder.path().join(&name);
        std::fs::write(&file, vec![7; size])?;
        let reads = BYTES_PER_ROUND / size;

        let mut by_store = vec![];
        let mut by_file = vec![];
        // In turns, so that both sides meet the same machine.
        for _ in 0..ROUNDS {
            by_store.push(seconds_of(reads, || Ok(store.get(&name)?))?);
            by_file.push(seconds_of(reads, || Ok(std::fs::read(&file)?))?);
        }

        let store_seconds = median(by_store);
        let file_seconds = median(by_file);
        lines.push(json!({
            "bytes": size,
            "reads": reads,
            "storeSeconds": store_seconds,
            "fileSeconds": file_seconds,
            "ratio": store_seconds / file_seconds,
        }));
    }

    println!("{}", json!({ "objects": lines }));
    Ok(())
}

fn seconds_of<T>(reads: usize, read: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..reads {
        black_box(read()?);
    }

    Ok(start.elapsed().as_secs_f64())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
