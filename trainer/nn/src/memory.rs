//! What a worker holds in memory while it trains, counted before it holds it, and how much of a batch
//! it may compute at once. Reserves nothing, and is pure but for `limit`, which asks the system how much
//! there is.

mod batch_plan;
mod towers;

use cnclip_crds::model::{ImageTower, ModelConfig};
use cnclip_crds::stage::{FrozenTower, Precision};
use cnclip_crds::trainer_config::TrainConfig;

use crate::model::clip::Clip;
pub use batch_plan::{BatchPlan, DoesNotFit, choose_batch_plan};
use towers::ComputeMode;

/// Bytes of a number.
const BYTES_PER_VALUE: u64 = size_of::<f32>() as u64;
/// The program, its threads and what they pack for their products.
const HOST_OVERHEAD_BYTES: u64 = 64 << 20;
/// A device's libraries, and the room that their products take.
const DEVICE_OVERHEAD_BYTES: u64 = 512 << 20;
/// Batches that the loader has at once: one in use, and those ahead of it.
const LOADER_BATCHES: u64 = 3;
/// Times that a picture grows when it is decoded, as far as that can be known.
const DECODE_EXPANSION: u64 = 8;
/// The most that is kept of decoded pictures.
const MAX_DECODED_BYTES: u64 = 512 << 20;

/// What decides how much a worker needs, but for the way it computes.
#[derive(Clone, Copy, Debug)]
pub struct MemoryInputs<'a> {
    /// The stage.
    pub config: &'a TrainConfig,
    /// Pairs of a global batch that are this rank's.
    pub local_batch_size: usize,
    /// Bytes of the data set's shards.
    pub shard_bytes: u64,
    /// Bytes of the shards that are shuffled together.
    pub shuffle_window: u64,
    /// A teacher's tower and the length of its features.
    pub teacher: Option<(&'a ImageTower, usize)>,
    /// Threads that compute.
    pub threads: usize,
    /// The number format of products on a device; none in this machine's memory.
    pub device: Option<Precision>,
}

/// What a rank needs, by kind.
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
    /// The running average of the weights.
    pub ema: u64,
    /// A teacher, and what it computes with.
    pub teacher: u64,
    /// What the towers keep of each pair for their gradients.
    pub activations: u64,
    /// What the blocks of a tower lend each other.
    pub scratch: u64,
    /// Features and their gradients.
    pub features: u64,
    /// Similarities of the rank's pairs with all others.
    pub loss: u64,
    /// Batches on their way.
    pub batches: u64,
    /// The copy that a checkpoint is written from.
    pub checkpoint: u64,
    /// The program itself.
    pub program: u64,
    /// Shards and pictures that are kept because they will be needed again.
    pub cache: u64,
}

impl MemoryEstimate {
    /// Every kind and its bytes.
    pub fn bytes_by_kind(&self) -> [(&'static str, u64); 13] {
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
        ]
    }

    /// What of it a device holds: weights in both formats, and no copy of anything.
    fn on_device(self, precision: Precision) -> Self {
        let rounded = |bytes: u64| {
            if precision == Precision::Bf16 {
                bytes / 2
            } else {
                0
            }
        };

        Self {
            values: self.values + rounded(self.values),
            checkpoint: 0,
            program: DEVICE_OVERHEAD_BYTES,
            cache: 0,
            ..self
        }
    }

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.bytes_by_kind().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl MemoryInputs<'_> {
    /// What a rank needs that computes in some way.
    pub fn estimate_memory(&self, way: BatchPlan) -> MemoryEstimate {
        let config = self.config;
        let model = &config.model;
        let micro = way.micro_batch as u64;
        let all = config.global_batch_size as u64;
        let own = self.local_batch_size as u64;
        let width = model.embed_dim as u64;
        let side = model.image.resolution as u64;
        let ParamCounts {
            weights,
            trained,
            buffers: state,
        } = ParamCounts::count_params(model, config.freeze);

        let average = if config.optimizer.average_decay.is_some() {
            weights
        } else {
            0
        };

        let how = ComputeMode {
            recompute: way.recompute,
            device: self.device,
        };

        let towers = towers::estimate_towers(model, config.context_length as usize, how);
        let lent = towers::conv_workspace_bytes(&model.image, self.threads, how);
        let needs = MemoryEstimate {
            // The statistics are kept before and after a step too.
            values: BYTES_PER_VALUE * (weights + 3 * state),
            gradients: BYTES_PER_VALUE * weights,
            moments: BYTES_PER_VALUE * 2 * trained,
            ema: BYTES_PER_VALUE * average,
            teacher: self.teacher_bytes(micro),
            activations: micro * towers.activations,
            scratch: micro * towers.scratch + lent,
            features: BYTES_PER_VALUE * width * (2 * all + 2 * own + 6 * micro),
            loss: BYTES_PER_VALUE * own * all,
            // A device gets the pictures that it looks at as bytes.
            batches: if self.device.is_some() {
                micro
            } else {
                LOADER_BATCHES * own
            } * 3
                * side
                * side,
            checkpoint: BYTES_PER_VALUE * (weights + 2 * trained + average),
            program: HOST_OVERHEAD_BYTES,
            cache: self.cache_bytes(),
        };

        self.device
            .map_or(needs, |precision| needs.on_device(precision))
    }

    fn teacher_bytes(&self, micro: u64) -> u64 {
        let Some((image, width)) = self.teacher else {
            return 0;
        };

        let model = ModelConfig {
            image: image.clone(),
            embed_dim: width as i32,
            ..self.config.model.clone()
        };

        let weights = towers::count_image_params(&model);
        let how = ComputeMode {
            recompute: true,
            device: self.device,
        };

        let pass = towers::estimate_image_tower(image, how);
        let lent = micro * pass.scratch + towers::conv_workspace_bytes(image, self.threads, how);
        BYTES_PER_VALUE * (weights + self.local_batch_size as u64 * 2 * width as u64)
            + micro * pass.activations
            + lent
    }

    fn cache_bytes(&self) -> u64 {
        let pictures = if self.shard_bytes <= 2 * self.shuffle_window {
            DECODE_EXPANSION * self.shard_bytes
        } else {
            0
        };

        self.shard_bytes.min(2 * self.shuffle_window) + pictures.min(MAX_DECODED_BYTES)
    }
}

/// How many numbers a model has.
struct ParamCounts {
    weights: u64,
    trained: u64,
    buffers: u64,
}

impl ParamCounts {
    fn count_params(model: &ModelConfig, freeze: FrozenTower) -> Self {
        let layout = Clip::param_layout(model);
        let count = |of: &dyn Fn(&str) -> bool| {
            let counted = layout.segments().iter().filter(|segment| of(&segment.name));
            counted.map(|segment| segment.range.len() as u64).sum()
        };

        let frozen = |name: &str| freeze == FrozenTower::Image && name.starts_with("visual.");
        Self {
            weights: count(&|_| true),
            trained: count(&|name| !frozen(name)),
            buffers: layout
                .buffer_segments()
                .iter()
                .map(|segment| segment.range.len() as u64)
                .sum(),
        }
    }
}
