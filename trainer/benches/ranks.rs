//! What ranks cost: gradients added around the ring, a second, and pairs a second of a training step that
//! workers of one thread share. Workers are processes that this one starts.
//!
//! `cargo bench -p cnclip-trainer --bench ranks -- --model model.json --workers 2` prints one line of JSON.
#![allow(
    clippy::print_stdout,
    reason = "the result of a benchmark is what it prints"
)]

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use cnclip_compute::collective::Collective;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_crds::model::ModelConfig;
use cnclip_crds::names::{ENV_RENDEZVOUS_SECRET, ENV_WORKER_INDEX, RENDEZVOUS_PORT};
use cnclip_crds::trainer_config::{DistributedConfig, RunIdentity};
use cnclip_distributed::{Communicator, JoinRequest, LocalRanks};
use cnclip_nn::accumulate::GradientAccumulator;
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ClipBatch};

/// Times a ring, and forward and backward passes of one model on made-up pairs.
#[derive(Clone, Parser)]
struct Arguments {
    /// The towers, as in `spec.model.custom`.
    #[arg(long)]
    model: PathBuf,
    /// Pairs in a step, over all workers.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Workers, of one rank each.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Threads of each worker.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Steps that are timed, after one that is not.
    #[arg(long, default_value_t = 5)]
    steps: u32,
    /// MiB that are added around the ring at once.
    #[arg(long, default_value_t = 16)]
    mebibytes: usize,
    /// Given by `cargo bench`.
    #[arg(long)]
    bench: bool,
}

/// What rank 0 found.
struct Found {
    pairs_per_second: f64,
    mebibytes_per_second: f64,
    waited_share: f64,
}

fn measure(arguments: &Arguments, world: &Arc<Communicator>) -> anyhow::Result<Found> {
    let config: ModelConfig = serde_json::from_slice(&std::fs::read(&arguments.model)?)?;
    let own = world.rank_range(arguments.batch).len();
    let (mut clip, mut params) = Clip::new(
        &config,
        BatchCapacity {
            batch: own,
            context: 16,
        },
    );

    params.init_values(1);
    let mut accumulator =
        GradientAccumulator::with_ranks(&clip, &params, arguments.batch, own, world.clone());
    let mut buckets = world.gradient_buckets()?;
    let picture = 3 * (config.image.resolution as usize).pow(2);
    let pixels: Vec<u8> = (0..own * picture).map(|i| (i * 37 % 251) as u8).collect();
    let ids: Vec<u32> = (0..own * 12).map(|i| 1 + i as u32 % 1000).collect();
    let offsets: Vec<usize> = (0..=own).map(|pair| pair * 12).collect();

    let texts = PackedTexts {
        ids: &ids,
        offsets: &offsets,
    };

    let batch = ClipBatch {
        pixels: PixelBatch::Bytes(&pixels),
        texts,
    };

    let mut step = || {
        let score = accumulator.forward(&mut clip, &mut params, batch, Dropout::NONE);
        params.clear_gradients();
        clip.add_logit_scale_gradient(&mut params, score.logit_scale_gradient as f32);
        accumulator.backward(&mut clip, &mut params, batch, Dropout::NONE, &mut buckets);
        buckets.finish_all_reduce(&mut params.gradients.view_mut());

        world.wait_time() + buckets.wait_time()
    };

    let before = step();
    let start = Instant::now();
    let waited = (0..arguments.steps)
        .map(|_| step())
        .last()
        .unwrap_or(before)
        - before;

    let seconds = start.elapsed().as_secs_f64();
    let mut values = vec![1f32; arguments.mebibytes << 18];
    world.all_reduce_sum(&mut values);
    let start = Instant::now();
    world.all_reduce_sum(&mut values);
    let mebibytes_per_second = arguments.mebibytes as f64 / start.elapsed().as_secs_f64();

    world.barrier()?;
    Ok(Found {
        pairs_per_second: f64::from(arguments.steps) * arguments.batch as f64 / seconds,
        mebibytes_per_second,
        waited_share: waited.as_secs_f64() / seconds,
    })
}

/// The workers, as processes like this one.
fn start(arguments: &Arguments) -> anyhow::Result<Vec<Child>> {
    let start = |worker: usize| {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(std::env::args_os().skip(1))
            .env(ENV_WORKER_INDEX, worker.to_string())
            // On one machine, for the length of a benchmark.
            .env(ENV_RENDEZVOUS_SECRET, "benchmark".repeat(4));

        command
            .env("RAYON_NUM_THREADS", arguments.threads.to_string())
            .spawn()
    };

    Ok((0..arguments.workers)
        .map(start)
        .collect::<Result<_, _>>()?)
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if std::env::var_os(ENV_WORKER_INDEX).is_none() {
        for mut worker in start(&arguments)? {
            worker.wait()?;
        }
        return Ok(());
    }

    let config = DistributedConfig {
        replicas: arguments.workers as i32,
        coordinator: Some(format!("127.0.0.1:{RENDEZVOUS_PORT}")),
        ..DistributedConfig::default()
    };

    let claim = JoinRequest {
        run: &RunIdentity::default(),
        config: String::new(),
    };

    let job = |world: Arc<Communicator>| {
        let found = measure(&arguments, &world)
            .map_err(|error| cnclip::error::Error::Usage(error.to_string()))?;
        if world.is_rank_zero() {
            let result = serde_json::json!({
                "workers": arguments.workers,
                "threads": arguments.threads,
                "pairsPerSecond": found.pairs_per_second,
                "waitedShare": found.waited_share,
                "ringMebibytesPerSecond": found.mebibytes_per_second,
            });

            println!("{result}");
        }

        Ok(())
    };

    Ok(LocalRanks::join_workers(&config, &claim)?.run_ranks::<cnclip::error::Error>(job, job)?)
}
