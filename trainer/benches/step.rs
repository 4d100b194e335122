//! Pairs a second of a training step without its data, and what it reserves: forward, loss, backward,
//! optimizer.
//!
//! `cargo bench -p cnclip-trainer --bench step -- --model model.json` prints one line of JSON.
#![allow(
    clippy::print_stdout,
    reason = "the result of a benchmark is what it prints"
)]

use std::path::PathBuf;

use clap::Parser;
use cnclip::bench::{BenchConfig, TrainingBench};
use cnclip_compute::tensor::Memory;
use cnclip_crds::stage::Precision;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Times training steps of one model on made-up pairs.
#[derive(Parser)]
struct Arguments {
    /// The towers, as in `spec.model.custom`.
    #[arg(long)]
    model: PathBuf,
    /// Pairs in a step.
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Pairs that are computed at once; all of a step if not given.
    #[arg(long)]
    micro_batch: Option<usize>,
    /// Computes again in the backward pass what blocks would keep.
    #[arg(long)]
    recompute: bool,
    /// Patches of each picture that are left out, in percent.
    #[arg(long, default_value_t = 0)]
    masked: u32,
    /// Rounds the operands of products to bfloat16.
    #[arg(long)]
    bf16: bool,
    /// Tokens that memory is reserved for.
    #[arg(long, default_value_t = 32)]
    context: usize,
    /// Tokens of the shortest and of the longest caption.
    #[arg(long, num_args = 2, default_values_t = [4, 15])]
    tokens: Vec<usize>,
    /// Steps that are timed, after two that are not.
    #[arg(long, default_value_t = 10)]
    steps: u64,
    /// Given by `cargo bench`.
    #[arg(long)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let plan = BenchConfig {
        model: serde_json::from_slice(&std::fs::read(&arguments.model)?)?,
        batch: arguments.batch,
        micro_batch: arguments.micro_batch.unwrap_or(arguments.batch),
        context: arguments.context,
        tokens: (arguments.tokens[0], arguments.tokens[1]),
        precision: if arguments.bf16 {
            Precision::Bf16
        } else {
            Precision::Fp32
        },
        recompute: arguments.recompute,
        masked_percent: arguments.masked,
    };

    let before = MEMORY.current_usage();
    let mut bench = TrainingBench::new(&plan, &Memory::Host);
    let reserved = MEMORY.current_usage() - before - bench.batch_bytes();
    let times = bench.time_steps(arguments.steps)?;
    let result = serde_json::json!({
        "pairsPerSecond": times.pairs_per_second,
        "forwardSeconds": times.forward_seconds,
        "backwardSeconds": times.backward_seconds,
        "optimizerSeconds": times.optimizer_seconds,
        "reservedBytes": reserved,
        "threads": rayon::current_num_threads(),
        "parameters": bench.param_count(),
    });

    println!("{result}");
    Ok(())
}
