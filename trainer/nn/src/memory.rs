//! How much memory a rank needs to train, estimated before it allocates any, and the largest micro-batch that
//! fits. Allocates nothing, and is pure: how much memory there is is an argument.
//!
//! Estimated rather than tried out, because an allocation that fails, or a container that is killed for
//! its memory, costs a restart; and because what does not fit can be refused with what would.

mod batch_plan;
mod host_plan;
mod towers;

use cnclip_crds::model::{ImageTower, ModelConfig};
use cnclip_crds::stage::{FrozenTower, Precision};
use cnclip_crds::trainer_config::TrainConfig;

use crate::model::clip::Clip;
pub use batch_plan::{BatchPlan, DoesNotFit, choose_batch_plan};
pub use host_plan::{CacheBudget, HostPlan, plan_host_memory};
use towers::ComputeMode;

/// Bytes of a value in fp32.
const BYTES_PER_VALUE: u64 = size_of::<f32>() as u64;

/// The program, its threads and what they pack for their matrix products.
const HOST_OVERHEAD_BYTES: u64 = 64 << 20;

/// A device's context, its libraries and the workspace of their matrix products.
const DEVICE_OVERHEAD_BYTES: u64 = 512 << 20;

/// Batches that the loader has at once: one in use, and those that it prefetches.
const LOADER_BATCHES: u64 = 3;

/// How much larger an image is decoded than as a JPEG. Rather more than usual: the data set is not decoded
/// to find out.
const DECODE_EXPANSION: u64 = 8;

/// The most that is cached of decoded images.
const MAX_DECODED_BYTES: u64 = 512 << 20;

/// What a thread takes to decode an image: one of 20 megapixels, as cameras make them. Larger ones are rare.
const DECODE_BYTES: u64 = 64 << 20;

/// Copies of features while ranks gather them: a rank's own, those of all by rank, and those of all in a row.
const GATHER_COPIES: u64 = 3;

/// Bytes of a pixel: red, green and blue.
const BYTES_PER_PIXEL: u64 = 3;

/// What decides how much memory a rank needs, but for its batch plan.
#[derive(Clone, Copy, Debug)]
pub struct MemoryInputs<'a> {
    /// The stage.
    pub config: &'a TrainConfig,
    /// Samples of a global batch that are this rank's.
    pub local_batch_size: usize,
    /// Bytes of the data set's shards.
    pub shard_bytes: u64,
    /// Bytes of the shards that are shuffled together.
    pub shuffle_window: u64,
    /// A teacher's tower and the length of its features.
    pub teacher: Option<(&'a ImageTower, usize)>,
    /// Threads that compute.
    pub threads: usize,
    /// Number format of matrix products on a device; none on the host.
    pub device: Option<Precision>,
    /// What loads and validates on the host.
    pub host: HostInputs,
}

/// What decides how much host memory a rank needs to load data and to validate.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostInputs {
    /// Threads that decode images.
    pub loader_threads: usize,
    /// Images and texts that a validation compares.
    pub validation_items: u64,
    /// Bytes of the largest shard.
    pub largest_shard_bytes: u64,
}

/// The memory of a rank, by kind.
///
/// # Units
/// Bytes
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryEstimate {
    /// Weights and running statistics.
    pub values: u64,
    /// Their gradients.
    pub gradients: u64,
    /// The optimizer's moments of what is trained.
    pub moments: u64,
    /// The EMA of the weights.
    pub ema: u64,
    /// The teacher of a distillation, and its activations.
    pub teacher: u64,
    /// Activations that the towers keep for the backward pass.
    pub activations: u64,
    /// Scratch memory that the layers of a tower use in turn.
    pub scratch: u64,
    /// Features and their gradients.
    pub features: u64,
    /// Logits of the rank's samples with all others.
    pub loss: u64,
    /// Batches that are loaded.
    pub batches: u64,
    /// The copy that a checkpoint is written from, while training goes on.
    pub checkpoint: u64,
    /// The program itself.
    pub program: u64,
    /// Shards and images that are cached.
    pub cache: u64,
    /// Images that are being decoded.
    pub decoding: u64,
    /// Features of a validation, of which each rank has all.
    pub validation: u64,
}

impl MemoryEstimate {
    /// Every kind and its bytes.
    pub fn bytes_by_kind(&self) -> [(&'static str, u64); 15] {
        [
            ("values", self.values),
            ("gradients", self.gradients),
            ("moments", self.moments),
            ("average", self.ema),
            ("teacher", self.teacher),
            ("activations", self.activations),
            ("scratch", self.scratch),
            ("features", self.features),
            ("loss", self.loss),
            ("batches", self.batches),
            ("checkpoint", self.checkpoint),
            ("program", self.program),
            ("cache", self.cache),
            ("decoding", self.decoding),
            ("validation", self.validation),
        ]
    }

    /// The part of it in a device's memory: weights in both formats, and nothing of what stays in host memory.
    fn on_device(self, precision: Precision) -> Self {
        let bf16_copy = match precision {
            Precision::Bf16 => self.values / 2,
            _ => 0,
        };

        Self {
            values: self.values + bf16_copy,
            checkpoint: 0,
            program: DEVICE_OVERHEAD_BYTES,
            cache: 0,
            decoding: 0,
            validation: 0,
            ..self
        }
    }

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.bytes_by_kind().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl MemoryInputs<'_> {
    /// The memory of a rank that trains by a plan.
    pub fn estimate_memory(&self, plan: BatchPlan) -> MemoryEstimate {
        let estimate = self.estimate_on_host(plan);
        self.device
            .map_or(estimate, |precision| estimate.on_device(precision))
    }

    fn estimate_on_host(&self, plan: BatchPlan) -> MemoryEstimate {
        let config = self.config;
        let model = &config.model;
        let micro_batch = plan.micro_batch as u64;
        let global_batch = config.global_batch_size as u64;
        let local_batch = self.local_batch_size as u64;
        let width = model.embed_dim as u64;
        let ParamCounts {
            weights,
            trained,
            buffers,
        } = ParamCounts::count_params(model, config.freeze);

        let averaged = if config.optimizer.average_decay.is_some() {
            weights + buffers
        } else {
            0
        };

        let mode = ComputeMode {
            recompute: plan.recompute,
            device: self.device,
        };

        let towers = towers::estimate_towers(model, config.context_length as usize, mode);
        let workspace = towers::conv_workspace_bytes(&model.image, self.threads, mode);
        // Features of all ranks, those of this rank with their gradients, and those of both towers.
        let feature_rows = 2 * global_batch + 2 * local_batch + 6 * micro_batch;

        MemoryEstimate {
            // The running statistics are kept before and after a step too.
            values: BYTES_PER_VALUE * (weights + 3 * buffers),
            gradients: BYTES_PER_VALUE * weights,
            moments: BYTES_PER_VALUE * 2 * trained,
            ema: BYTES_PER_VALUE * averaged,
            teacher: self.teacher_bytes(micro_batch),
            activations: micro_batch * towers.activations,
            scratch: micro_batch * towers.scratch + workspace,
            features: BYTES_PER_VALUE * width * feature_rows,
            loss: BYTES_PER_VALUE * local_batch * global_batch,
            batches: self.batch_bytes(micro_batch),
            checkpoint: BYTES_PER_VALUE * (weights + 2 * trained + averaged),
            program: HOST_OVERHEAD_BYTES,
            cache: self.cache_bytes(),
            decoding: DECODE_BYTES * self.host.loader_threads as u64,
            validation: GATHER_COPIES * BYTES_PER_VALUE * width * self.host.validation_items,
        }
    }

    /// Pixels travel as bytes; a device gets those of a micro-batch.
    fn batch_bytes(&self, micro_batch: u64) -> u64 {
        let side = self.config.model.image.resolution as u64;
        let images = match self.device {
            Some(_) => micro_batch,
            None => LOADER_BATCHES * self.local_batch_size as u64,
        };

        images * BYTES_PER_PIXEL * side * side
    }

    fn teacher_bytes(&self, micro_batch: u64) -> u64 {
        let Some((image, width)) = self.teacher else {
            return 0;
        };

        let model = ModelConfig {
            image: image.clone(),
            embed_dim: width as i32,
            ..self.config.model.clone()
        };

        // Without a backward pass its layers share their activations.
        let mode = ComputeMode {
            recompute: true,
            device: self.device,
        };

        let weights = towers::count_image_params(&model);
        let features = self.local_batch_size as u64 * 2 * width as u64;
        let tower = towers::estimate_image_tower(image, mode);
        BYTES_PER_VALUE * (weights + features)
            + micro_batch * (tower.activations + tower.scratch)
            + towers::conv_workspace_bytes(image, self.threads, mode)
    }

    fn cache_bytes(&self) -> u64 {
        let cache = host_plan::largest_cache(self);
        cache.shard_bytes + cache.image_bytes
    }
}

/// How many values a model has.
struct ParamCounts {
    weights: u64,
    trained: u64,
    buffers: u64,
}

impl ParamCounts {
    fn count_params(model: &ModelConfig, freeze: FrozenTower) -> Self {
        // Counted from the model's own declaration, so it cannot differ from it.
        let layout = Clip::param_layout(model);
        let is_frozen = |name: &str| freeze == FrozenTower::Image && name.starts_with("visual.");
        let mut weights = 0;
        let mut trained = 0;
        for segment in layout.segments() {
            let len = segment.range.len() as u64;
            weights += len;
            if !is_frozen(&segment.name) {
                trained += len;
            }
        }

        let buffers = layout.buffer_segments().iter();
        Self {
            weights,
            trained,
            buffers: buffers.map(|segment| segment.range.len() as u64).sum(),
        }
    }
}
