//! Everything that must be there before the first step: configuration, data, weights, the right to
//! write. Takes no step.

use std::ops::Range;
use std::sync::Arc;

use cnclip_crds::artifacts::{self, CHECKPOINTS};
use cnclip_crds::model::{ImageTower, ModelConfig};
use cnclip_crds::run_config::{DistillationConfig, Length, TrainConfig, WeightSources};
use cnclip_crds::stage::Freeze;

use super::fit::{fit, suffices};
use super::resume::{self, Resumed};
use super::run::{Progress, Run, Validator};
use super::together::Together;
use crate::checkpoint::{Claim, Fence, Writer};
use crate::error::{Error, Result};
use crate::source;
use crate::weights::{Part, WeightsError, left_out, load};
use cnclip_compute::collective::Ranks;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::Memory;
use cnclip_data::loader::{Loader, Options};
use cnclip_data::order::Order;
use cnclip_data::order::WINDOW_BYTES;
use cnclip_data::shard::Dataset;
use cnclip_data::store::Store;
use cnclip_data::tokenize::Tokenizer;
use cnclip_distributed::World;
use cnclip_nn::accumulate::Accumulator;
use cnclip_nn::average::Average;
use cnclip_nn::distillation::Distillation;
use cnclip_nn::memory::Load;
use cnclip_nn::model::clip::{Capacity, Clip, Compute};
use cnclip_nn::model::teacher::Teacher;
use cnclip_nn::optimizer::{AdamW, Settings};
use cnclip_nn::schedule::Schedule;

/// A run that is ready to take its next step: the first, or the one after its newest checkpoint. Where a
/// device turns out to have too little memory, the same with half as many pairs at once, if that is free.
///
/// # Errors
/// If the data, the weights or the artifact prefix cannot be used, other ranks see others, or memory does
/// not suffice.
pub(super) fn set_up(
    config: &TrainConfig,
    world: &Arc<World>,
    memory: impl Fn() -> Result<Memory>,
) -> Result<Run> {
    if let Some(run) = attempt(config, world.clone(), &memory()?)? {
        return Ok(run);
    }

    let halved = TrainConfig {
        halve_micro_batch: true,
        ..config.clone()
    };

    // After a lack of memory a device does nothing any more: it is used anew.
    let run = attempt(&halved, world.clone(), &memory()?)?;
    run.ok_or_else(|| Error::Bug("a stage was to be halved twice".into()))
}

/// The same, unless a device has too little memory and half as many pairs at once may fit.
fn attempt(config: &TrainConfig, world: Arc<World>, place: &Memory) -> Result<Option<Run>> {
    let tokenizer = Arc::new(source::tokenizer(
        config.vocabulary.as_ref(),
        config.model.text.vocab_size,
    )?);

    let dataset = Dataset::open(&config.dataset)?;
    let validator = validator(config, tokenizer.clone())?;
    let digest = dataset.index().dataset.clone();
    let validated = validator
        .as_ref()
        .map(|validator| &validator.dataset.index().dataset);

    world.agree("data set", (&digest, validated))?;
    let own = world.share(config.global_batch_size as usize);
    let teacher = config
        .distillation
        .as_ref()
        .map(|asked| Taught::find(config, asked))
        .transpose()?;

    let of = Load {
        config,
        own: own.len(),
        shards: dataset.index().shards.iter().map(|shard| shard.bytes).sum(),
        shuffle_window: WINDOW_BYTES,
        teacher: teacher.as_ref().map(Taught::tower),
        threads: rayon::current_num_threads(),
        device: place.device().map(|_| config.world.precision),
    };

    let asked = config;
    let (config, memory) = fit(&of, place)?;
    let config = &config;
    let sizes = Sizes {
        global_batch: config.global_batch_size as usize,
        micro_batch: memory.micro_batch_size as usize,
        own,
    };

    let distillation = teacher
        .map(|teacher| teacher.build(place, config, &sizes))
        .transpose()?;

    let order = Order::new(dataset.index(), config.seed, sizes.global_batch)?;
    let steps = steps(config, order.steps_per_epoch())?;
    let steps_per_epoch = order.steps_per_epoch();

    let stage = Store::open(&artifacts::stage(&config.artifacts, &config.run.stage))?;
    let checkpoints = stage.join(CHECKPOINTS);
    let writer = match world.is_first() {
        true => Some(Writer::new(
            checkpoints.clone(),
            Fence::claim(&stage, claim(config))?,
            config.checkpoint.keep as usize,
        )),
        false => None,
    };

    let (mut clip, mut params) = model(place, config, &sizes, memory.gradient_checkpointing);
    if config.synchronize_batch_norm && world.count() > 1 {
        clip.synchronize_batch_norm(world.clone());
    }

    let mut adamw = AdamW::new(&params, settings(config));
    let of = (config, digest.as_str());
    let resumed = resume::newest((&checkpoints, &world), of, &mut params, &mut adamw)?;

    if resumed.is_none() {
        initialize(config, &mut params)?;
    }

    let Resumed {
        state,
        average,
        history,
        best,
    } = resumed.unwrap_or_default();

    let decay = config.optimizer.average_decay;
    let average = average.or_else(|| decay.map(|decay| Average::new(&params, decay)));
    let statistics = params.memory().exact(params.state.len());
    let batches = (sizes.global_batch, sizes.micro_batch);
    let accumulator = Accumulator::shared(&clip, &params, batches, world.clone());

    if !suffices(asked, place, &world)? {
        return Ok(None);
    }

    if let Some(device) = place.device() {
        world.connect(device)?;
    }

    world.agree(
        "weights",
        bytemuck::cast_slice::<f32, u32>(&params.values.read()),
    )?;

    let loader = loader(
        config,
        dataset,
        tokenizer,
        (state.step..steps, sizes.own.clone()),
    )?;

    Ok(Some(Run {
        config: config.clone(),
        memory,
        progress: Progress::new((steps, steps_per_epoch), state, history, best),
        dataset: digest,
        statistics,
        accumulator,
        schedule: schedule(config, steps),
        together: Together::new(world, &sizes)?,
        writer,
        clip,
        params,
        adamw,
        average,
        distillation,
        loader,
        validator,
        stage,
    }))
}

/// Pairs.
#[derive(Debug)]
pub(super) struct Sizes {
    pub(super) global_batch: usize,
    /// What this rank computes at once.
    pub(super) micro_batch: usize,
    /// Which of a global batch are this rank's.
    pub(super) own: Range<usize>,
}

fn model(memory: &Memory, config: &TrainConfig, sizes: &Sizes, recompute: bool) -> (Clip, Params) {
    let capacity = Capacity {
        batch: sizes.micro_batch,
        context: config.context_length as usize,
    };

    let precision = config.world.precision;
    let compute = Compute {
        recompute,
        precision,
    };

    let (mut clip, mut params) = Clip::within(memory, &config.model, capacity, compute);
    clip.freeze_image(&mut params, config.freeze == Freeze::Image);
    clip.mask_patches(config.masked_patches_percent as u32);
    (clip, params)
}

fn claim(config: &TrainConfig) -> Claim {
    let run = if config.run.uid.is_empty() {
        &config.run.name
    } else {
        &config.run.uid
    };

    Claim {
        run: run.clone(),
        attempt: config.run.attempt.max(1) as u32,
    }
}

/// Optimizer steps of the stage.
fn steps(config: &TrainConfig, per_epoch: u64) -> Result<u64> {
    let steps = match config.length {
        Length::Steps(steps) => steps as u64,
        Length::Epochs(epochs) => (epochs as u64).saturating_mul(per_epoch),
    };

    let warmup = config.optimizer.warmup_steps;
    if warmup as u64 >= steps {
        return Err(Error::Config(format!(
            "optimizer.warmupSteps is {warmup}, but the stage has only {steps} steps. Shorten the warm-up \
             or train longer."
        )));
    }

    Ok(steps)
}

fn settings(config: &TrainConfig) -> Settings {
    let optimizer = &config.optimizer;
    Settings {
        beta_1: optimizer.beta1,
        beta_2: optimizer.beta2,
        epsilon: optimizer.epsilon,
        weight_decay: optimizer.weight_decay,
        max_norm: optimizer.max_gradient_norm,
    }
}

fn schedule(config: &TrainConfig, total_steps: u64) -> Schedule {
    let optimizer = &config.optimizer;
    let warmup_steps = optimizer.warmup_steps as u64;
    Schedule {
        peak: optimizer.learning_rate,
        warmup_steps,
        total_steps,
    }
}

/// The teacher that a stage asks for, found but not built.
struct Taught {
    weights: source::Found,
    image: ImageTower,
    embed_dim: i32,
    weight: f64,
}

impl Taught {
    fn find(config: &TrainConfig, asked: &DistillationConfig) -> Result<Self> {
        let DistillationConfig {
            teacher: uri,
            weight,
        } = asked;

        let weights = source::weights(uri)?;
        let (image, embed_dim) = weights.image()?;
        let image = image.clone();
        let whole = ModelConfig {
            image: image.clone(),
            embed_dim,
            ..config.model.clone()
        };

        if let Some(problem) = whole.problem() {
            return Err(Error::Data(format!(
                "The teacher {uri} cannot be built: {problem}."
            )));
        }

        let side = config.model.image.resolution;
        if image.resolution != side {
            return Err(Error::Config(format!(
                "The teacher {uri} looks at pictures of {0} × {0} pixels, the trained tower at {side} × {side}: \
                 they must see the same. Name a teacher of resolution {side}.",
                image.resolution
            )));
        }

        Ok(Self {
            weights,
            image,
            embed_dim,
            weight: *weight,
        })
    }

    /// What it looks with, and the length of its features.
    fn tower(&self) -> (&ImageTower, usize) {
        (&self.image, self.embed_dim as usize)
    }

    fn build(self, memory: &Memory, config: &TrainConfig, sizes: &Sizes) -> Result<Distillation> {
        let mut teacher = Teacher::new(
            memory,
            &self.image,
            self.embed_dim as usize,
            sizes.micro_batch,
        );

        let unfit = WeightsError::of(&self.weights.uri, Error::Config);
        load(&mut teacher.params, &self.weights.tensors, Part::Image).map_err(unfit)?;
        tracing::info!(uri = self.weights.uri, "teacher");
        let batch = (sizes.own.len(), config.model.embed_dim as usize);

        Ok(Distillation::new(teacher, self.weight, batch))
    }
}

/// Random weights, then what the sources give, the more special over the more general.
fn initialize(config: &TrainConfig, params: &mut Params) -> Result<()> {
    params.initialize(config.seed);
    let WeightSources { model, image, text } = &config.initial_weights;
    let parts = [(model, Part::All), (image, Part::Image), (text, Part::Text)];

    for (uri, part) in parts
        .into_iter()
        .filter_map(|(uri, part)| Some((uri.as_ref()?, part)))
    {
        let found = source::weights(uri)?;
        let unfit = WeightsError::of(&found.uri, Error::Config);
        load(params, &found.tensors, part).map_err(unfit)?;
        let (part, left_out) = (format!("{part:?}"), left_out(&found.tensors, part));
        tracing::info!(uri = found.uri, part, left_out, "initial weights");
    }

    Ok(())
}

fn validator(config: &TrainConfig, tokenizer: Arc<Tokenizer>) -> Result<Option<Validator>> {
    let Some(validation) = &config.validation else {
        return Ok(None);
    };

    let dataset = Dataset::open(&validation.dataset)?;
    Ok(Some(Validator {
        dataset,
        tokenizer,
        every_steps: validation.every_steps as u64,
    }))
}

fn loader(
    config: &TrainConfig,
    dataset: Dataset,
    tokenizer: Arc<Tokenizer>,
    (steps, share): (Range<u64>, Range<usize>),
) -> Result<Loader> {
    let side = config.model.image.resolution as usize;
    let global_batch = config.global_batch_size as usize;
    let devices = config.world.devices as usize;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = cores.div_ceil(2 * devices);
    let options = Options {
        share,
        augmentation: config.augmentation,
        duplicates: config.duplicates,
        context_length: config.context_length as usize,
        threads,
        most_skipped: config.max_skipped_percent / 100.0,
        ..Options::new(config.seed, global_batch, steps, side)
    };

    Ok(Loader::start(dataset, tokenizer, options)?)
}
