//! What a worker holds in memory while it trains, counted before it holds it, and how much of a batch
//! it may compute at once. Reserves nothing, and is pure but for `limit`, which asks the system how much
//! there is.

mod towers;
mod ways;

use cnclip_crds::model::{ImageTower, ModelConfig};
use cnclip_crds::run_config::TrainConfig;
use cnclip_crds::stage::{Freeze, Precision};

use crate::model::clip::Clip;
use towers::How;
pub use ways::{DoesNotFit, Way, choose};

/// Bytes of a number.
const NUMBER: u64 = size_of::<f32>() as u64;
/// The program, its threads and what they pack for their products.
const PROGRAM: u64 = 64 << 20;
/// A device's libraries, and the room that their products take.
const CONTEXT: u64 = 512 << 20;
/// Batches that the loader has at once: one in use, and those ahead of it.
const BATCHES: u64 = 3;
/// Times that a picture grows when it is decoded, as far as that can be known.
const DECODED: u64 = 8;
/// The most that is kept of decoded pictures.
const PICTURES: u64 = 512 << 20;

/// What decides how much a worker needs, but for the way it computes.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// The stage.
    pub config: &'a TrainConfig,
    /// Pairs of a global batch that are this rank's.
    pub own: usize,
    /// Bytes of the data set's shards.
    pub shards: u64,
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
pub struct Needs {
    /// Weights and running statistics.
    pub values: u64,
    /// Their gradients.
    pub gradients: u64,
    /// The optimizer's moments of what is trained.
    pub moments: u64,
    /// The running average of the weights.
    pub average: u64,
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

impl Needs {
    /// Every kind and its bytes.
    pub fn kinds(&self) -> [(&'static str, u64); 13] {
        [
            ("values", self.values),
            ("gradients", self.gradients),
            ("moments", self.moments),
            ("average", self.average),
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
            program: CONTEXT,
            cache: 0,
            ..self
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.kinds().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Load<'_> {
    /// What a rank needs that computes in some way.
    pub fn needs(&self, way: Way) -> Needs {
        let config = self.config;
        let model = &config.model;
        let micro = way.micro_batch as u64;
        let all = config.global_batch_size as u64;
        let own = self.own as u64;
        let width = model.embed_dim as u64;
        let side = model.image.resolution as u64;
        let Numbers {
            weights,
            trained,
            state,
        } = Numbers::of(model, config.freeze);

        let average = if config.optimizer.average_decay.is_some() {
            weights
        } else {
            0
        };

        let how = How {
            recompute: way.recompute,
            device: self.device,
        };

        let towers = towers::of(model, config.context_length as usize, how);
        let lent = towers::workspace(&model.image, self.threads, how);
        let needs = Needs {
            // The statistics are kept before and after a step too.
            values: NUMBER * (weights + 3 * state),
            gradients: NUMBER * weights,
            moments: NUMBER * 2 * trained,
            average: NUMBER * average,
            teacher: self.teacher(micro),
            activations: micro * towers.kept,
            scratch: micro * towers.lent + lent,
            features: NUMBER * width * (2 * all + 2 * own + 6 * micro),
            loss: NUMBER * own * all,
            // A device gets the pictures that it looks at as bytes.
            batches: if self.device.is_some() {
                micro
            } else {
                BATCHES * own
            } * 3
                * side
                * side,
            checkpoint: NUMBER * (weights + 2 * trained + average),
            program: PROGRAM,
            cache: self.cache(),
        };

        self.device
            .map_or(needs, |precision| needs.on_device(precision))
    }

    fn teacher(&self, micro: u64) -> u64 {
        let Some((image, width)) = self.teacher else {
            return 0;
        };

        let model = ModelConfig {
            image: image.clone(),
            embed_dim: width as i32,
            ..self.config.model.clone()
        };

        let weights = towers::image_numbers(&model);
        let how = How {
            recompute: true,
            device: self.device,
        };

        let pass = towers::image(image, how);
        let lent = micro * pass.lent + towers::workspace(image, self.threads, how);
        NUMBER * (weights + self.own as u64 * 2 * width as u64) + micro * pass.kept + lent
    }

    fn cache(&self) -> u64 {
        let pictures = if self.shards <= 2 * self.shuffle_window {
            DECODED * self.shards
        } else {
            0
        };

        self.shards.min(2 * self.shuffle_window) + pictures.min(PICTURES)
    }
}

/// How many numbers a model has.
struct Numbers {
    weights: u64,
    trained: u64,
    state: u64,
}

impl Numbers {
    fn of(model: &ModelConfig, freeze: Freeze) -> Self {
        let layout = Clip::layout(model);
        let count = |of: &dyn Fn(&str) -> bool| {
            let counted = layout.segments().iter().filter(|segment| of(&segment.name));
            counted.map(|segment| segment.range.len() as u64).sum()
        };

        let frozen = |name: &str| freeze == Freeze::Image && name.starts_with("visual.");
        Self {
            weights: count(&|_| true),
            trained: count(&|name| !frozen(name)),
            state: layout
                .state_segments()
                .iter()
                .map(|segment| segment.range.len() as u64)
                .sum(),
        }
    }
}
