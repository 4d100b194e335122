//! Benchmarks training steps on synthetic data: forward, loss, backward and optimizer.

mod flops;

use std::time::{Duration, Instant};

use cnclip_crds::model::ModelConfig;
use cnclip_crds::stage::Precision;
use serde::Serialize;

pub use flops::{ForwardFlops, count_flops};

use cnclip_compute::device::DeviceError;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::Memory;
use cnclip_nn::accumulate::GradientAccumulator;
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ClipBatch, ComputeOptions};
use cnclip_nn::optimizer::{AdamW, AdamWSettings};

/// Steps before the measured ones: they fault in memory pages and select GEMM algorithms.
const WARM_UP_STEPS: u64 = 2;

/// Configuration of a benchmark.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// The towers.
    pub model: ModelConfig,
    /// Global batch size.
    pub batch: usize,
    /// Micro-batch size.
    pub micro_batch: usize,
    /// Context length that memory is allocated for, in tokens.
    pub context: usize,
    /// Tokens of the shortest and of the longest text.
    pub tokens: (usize, usize),
    /// Floating-point format of the towers.
    pub precision: Precision,
    /// Whether gradient checkpointing is used.
    pub recompute: bool,
    /// Patches of each image that are masked, in percent.
    pub masked_percent: u32,
}

impl BenchConfig {
    /// Tokens of each text of a batch: all lengths in turn.
    pub fn text_lengths(&self) -> impl Iterator<Item = usize> + use<> {
        // Not drawn at random: every run and every device gets the same number of tokens.
        let (shortest, longest) = self.tokens;
        (0..self.batch).map(move |pair| shortest + pair % (longest + 1 - shortest))
    }
}

/// Mean timings of a step.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchTimings {
    /// Throughput in samples per second.
    pub pairs_per_second: f64,
    /// Features and loss.
    pub forward_seconds: f64,
    /// Gradients.
    pub backward_seconds: f64,
    /// New weights.
    pub optimizer_seconds: f64,
}

/// A model that trains on one synthetic batch.
pub struct TrainingBench {
    clip: Clip,
    params: Params,
    accumulator: GradientAccumulator,
    adamw: AdamW,
    batch: SyntheticBatch,
    step: u64,
}

impl TrainingBench {
    /// Allocates everything that training needs.
    pub fn new(plan: &BenchConfig, memory: &Memory) -> Self {
        let capacity = BatchCapacity {
            batch: plan.micro_batch,
            context: plan.context,
        };

        let compute = ComputeOptions {
            recompute: plan.recompute,
            precision: plan.precision,
        };

        let (mut clip, mut params) = Clip::new_in(memory, &plan.model, capacity, compute);
        clip.mask_patches(plan.masked_percent);
        params.init_values(1);
        let accumulator = GradientAccumulator::new(&clip, &params, plan.batch, plan.micro_batch);
        let adamw = AdamW::new(&params, ADAMW_SETTINGS);

        Self {
            clip,
            params,
            accumulator,
            adamw,
            // One batch for all steps, so that data loading is not measured.
            batch: SyntheticBatch::new(plan),
            step: 0,
        }
    }

    /// Trains the text tower alone from now on, as the first stage of pretraining does, or both.
    pub fn freeze_image(&mut self, frozen: bool) {
        self.clip.freeze_image(&mut self.params, frozen);
    }

    /// Number of parameters.
    pub fn param_count(&self) -> usize {
        self.params.values.len()
    }

    /// Bytes of the synthetic batch, which a data loader would hold.
    pub fn batch_bytes(&self) -> usize {
        let SyntheticBatch {
            pixels,
            ids,
            offsets,
        } = &self.batch;

        pixels.len() + size_of_val(ids.as_slice()) + size_of_val(offsets.as_slice())
    }

    /// Measures steps, after warm-up steps.
    ///
    /// # Errors
    /// If the device fails.
    pub fn time_steps(&mut self, steps: u64) -> Result<BenchTimings, DeviceError> {
        for _ in 0..WARM_UP_STEPS {
            self.run_timed_step()?;
        }

        let mut parts = [0.0; 3];
        for _ in 0..steps {
            let times = self.run_timed_step()?;
            parts
                .iter_mut()
                .zip(times)
                .for_each(|(sum, time)| *sum += time.as_secs_f64());
        }

        let [forward_seconds, backward_seconds, optimizer_seconds] =
            parts.map(|sum| sum / steps as f64);
        let pairs = self.batch.sample_count() as f64;
        let pairs_per_second = pairs * steps as f64 / parts.iter().sum::<f64>();

        Ok(BenchTimings {
            pairs_per_second,
            forward_seconds,
            backward_seconds,
            optimizer_seconds,
        })
    }

    /// Runs a step, and measures forward, backward and optimizer.
    fn run_timed_step(&mut self) -> Result<[Duration; 3], DeviceError> {
        let Self {
            clip,
            params,
            accumulator,
            adamw,
            batch: pairs,
            step,
        } = self;

        let clip_batch = pairs.as_clip_batch();
        let dropout = Dropout::new(1, *step, 0);
        let start = Instant::now();
        let score = accumulator.forward(clip, params, clip_batch, dropout);
        // Kernels run asynchronously: without synchronization, time would be attributed to a later part.
        params.memory().synchronize()?;
        let forward = Instant::now();

        params.clear_gradients();
        clip.add_logit_scale_gradient(params, score.logit_scale_gradient as f32);
        accumulator.backward(clip, params, clip_batch, dropout, &mut ());
        params.memory().synchronize()?;
        let backward = Instant::now();

        *step += 1;
        // A step with a non-finite gradient is as slow, so its result is ignored.
        let _ = adamw.step(params, *step, LEARNING_RATE);
        clip.clamp_logit_scale(params);
        params.memory().synchronize()?;

        Ok([forward - start, backward - forward, backward.elapsed()])
    }
}

/// Small enough that random weights do not diverge.
const LEARNING_RATE: f64 = 1e-6;
const ADAMW_SETTINGS: AdamWSettings = AdamWSettings {
    beta_1: 0.9,
    beta_2: 0.98,
    epsilon: 1e-6,
    weight_decay: 0.1,
    max_norm: None,
};

/// A synthetic batch: noise images, and texts of all lengths in turn.
struct SyntheticBatch {
    pixels: Vec<u8>,
    ids: Vec<u32>,
    offsets: Vec<usize>,
}

impl SyntheticBatch {
    fn new(plan: &BenchConfig) -> Self {
        let side = plan.model.image.resolution as usize;
        let vocabulary = plan.model.text.vocab_size as u32;
        // Knuth's multiplicative hash: cheap, and no two neighbors are alike.
        let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 7;
        let mut offsets = vec![0];

        for tokens in plan.text_lengths() {
            offsets.push(offsets[offsets.len() - 1] + tokens);
        }

        Self {
            pixels: (0..plan.batch * 3 * side * side)
                .map(|i| noise(i) as u8)
                .collect(),
            ids: (0..offsets[plan.batch])
                .map(|i| noise(i) % vocabulary)
                .collect(),
            offsets,
        }
    }

    fn sample_count(&self) -> usize {
        self.offsets.len() - 1
    }

    fn as_clip_batch(&self) -> ClipBatch<'_> {
        let texts = PackedTexts {
            ids: &self.ids,
            offsets: &self.offsets,
        };

        ClipBatch {
            pixels: PixelBatch::Bytes(&self.pixels),
            texts,
        }
    }
}
