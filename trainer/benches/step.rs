//! Pairs a second of a training step without its data, and what it reserves: forward, loss, backward,
//! optimizer.
//!
//! `cargo bench -p cnclip-trainer --bench step -- --model model.json` prints one line of JSON.
#![allow(clippy::print_stdout, reason = "the result of a benchmark is what it prints")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use cnclip::accumulate::Accumulator;
use cnclip::model::Texts;
use cnclip::model::clip::{Batch, Capacity, Clip, Compute};
use cnclip::ops::dropout::Dropout;
use cnclip::ops::pixels::Pixels;
use cnclip::optimizer::{AdamW, Settings};
use cnclip::params::Params;
use cnclip_crds::model::ModelConfig;
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
    /// Steps that are timed, after one that is not.
    #[arg(long, default_value_t = 10)]
    steps: u64,
    /// Given by `cargo bench`.
    #[arg(long)]
    bench: bool,
}

/// Made-up pairs: noise for pictures, captions of all lengths in turn.
struct Pairs {
    pixels: Vec<u8>,
    ids: Vec<u32>,
    offsets: Vec<usize>,
}

impl Pairs {
    fn new(arguments: &Arguments, config: &ModelConfig) -> Self {
        let side = config.image.resolution as usize;
        let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 7;
        let (shortest, longest) = (arguments.tokens[0], arguments.tokens[1]);
        let mut offsets = vec![0];
        for pair in 0..arguments.batch {
            offsets.push(offsets[pair] + shortest + pair % (longest + 1 - shortest));
        }
        let vocabulary = config.text.vocab_size as u32;
        Self {
            pixels: (0..arguments.batch * 3 * side * side).map(|i| noise(i) as u8).collect(),
            ids: (0..offsets[arguments.batch]).map(|i| noise(i) % vocabulary).collect(),
            offsets,
        }
    }

    fn batch(&self) -> Batch<'_> {
        let texts = Texts { ids: &self.ids, offsets: &self.offsets };
        Batch { pixels: Pixels::Bytes(&self.pixels), texts }
    }
}

/// Everything that a step changes.
struct Training {
    clip: Clip,
    params: Params,
    accumulator: Accumulator,
    adamw: AdamW,
}

impl Training {
    fn new(arguments: &Arguments, config: &ModelConfig) -> Self {
        let micro_batch = arguments.micro_batch.unwrap_or(arguments.batch);
        let capacity = Capacity { batch: micro_batch, context: arguments.context };
        let precision = if arguments.bf16 { Precision::Bf16 } else { Precision::Fp32 };
        let compute = Compute { recompute: arguments.recompute, precision };
        let (mut clip, mut params) = Clip::computing(config, capacity, compute);
        clip.mask_patches(arguments.masked);
        params.initialize(1);
        let settings = Settings {
            beta_1: 0.9,
            beta_2: 0.98,
            epsilon: 1e-6,
            weight_decay: 0.1,
            max_norm: None,
        };
        let accumulator = Accumulator::new(&clip, &params, (arguments.batch, micro_batch));
        Self { accumulator, adamw: AdamW::new(&params, settings), clip, params }
    }

    /// One step, and how long its three parts took.
    fn step(&mut self, step: u64, pairs: &Pairs) -> [Duration; 3] {
        let Self { clip, params, accumulator, adamw } = self;
        let given = (pairs.batch(), Dropout::new(1, step, 0));
        let start = Instant::now();
        let score = accumulator.forward((clip, params), given);
        let forward = Instant::now();
        params.clear_gradients();
        clip.add_logit_scale_gradient(params, score.logit_scale_gradient as f32);
        accumulator.backward((clip, params), given, &mut ());
        let backward = Instant::now();
        #[expect(clippy::expect_used, reason = "a benchmark of nothing is worth nothing")]
        adamw.step(params, step, 1e-4).expect("finite gradients");
        clip.clamp_logit_scale(params);
        [forward - start, backward - forward, backward.elapsed()]
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config: ModelConfig = serde_json::from_slice(&std::fs::read(&arguments.model)?)?;
    let pairs = Pairs::new(&arguments, &config);
    let before = MEMORY.current_usage();
    let mut training = Training::new(&arguments, &config);
    let reserved = MEMORY.current_usage() - before;
    training.step(0, &pairs);
    let mut parts = [0.0; 3];
    for step in 1..=arguments.steps {
        let times = training.step(step, &pairs);
        parts.iter_mut().zip(times).for_each(|(sum, time)| *sum += time.as_secs_f64());
    }
    let seconds = parts.map(|sum| sum / arguments.steps as f64);
    let result = serde_json::json!({
        "pairsPerSecond": arguments.batch as f64 / seconds.iter().sum::<f64>(),
        "forwardSeconds": seconds[0],
        "backwardSeconds": seconds[1],
        "optimizerSeconds": seconds[2],
        "reservedBytes": reserved,
        "threads": rayon::current_num_threads(),
        "parameters": training.params.values.len(),
    });
    println!("{result}");
    Ok(())
}
