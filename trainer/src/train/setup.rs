//! Everything that must be there before the first step: configuration, data, weights, the right to
//! write. Takes no step.

use std::ops::Range;
use std::sync::Arc;

use cnclip_crds::artifacts::{self, CHECKPOINTS_FOLDER};
use cnclip_crds::model::{ImageTower, ModelConfig};
use cnclip_crds::stage::FrozenTower;
use cnclip_crds::trainer_config::{DistillationConfig, TrainConfig, TrainingLength, WeightSources};

use super::batch_planner::{memory_suffices, plan_batch};
use super::rank_sync::RankSync;
use super::resume::{self, ResumedState};
use super::training_run::{RunProgress, TrainingRun, Validator};
use crate::checkpoint::{CheckpointWriter, Fence, FenceClaim};
use crate::error::{Error, Result};
use crate::model_resolver;
use crate::weights::{ModelPart, WeightsError, load_weights, summarize_ignored};
use cnclip_compute::collective::Collective;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::Memory;
use cnclip_data::loader::{DataLoader, LoaderOptions};
use cnclip_data::order::BatchSampler;
use cnclip_data::order::SHUFFLE_WINDOW_BYTES;
use cnclip_data::shard::Dataset;
use cnclip_data::store::Store;
use cnclip_data::tokenizer::Tokenizer;
use cnclip_distributed::Communicator;
use cnclip_nn::accumulate::GradientAccumulator;
use cnclip_nn::distillation::Distillation;
use cnclip_nn::ema::WeightEma;
use cnclip_nn::memory::MemoryInputs;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ComputeOptions};
use cnclip_nn::model::teacher::Teacher;
use cnclip_nn::optimizer::{AdamW, AdamWSettings};
use cnclip_nn::schedule::LearningRateSchedule;

/// A run that is ready to take its next step: the first, or the one after its newest checkpoint. Where a
/// device turns out to have too little memory, the same with half as many pairs at once, if that is free.
///
/// # Errors
/// If the data, the weights or the artifact prefix cannot be used, other ranks see others, or memory does
/// not suffice.
pub(super) fn set_up_run(
    config: &TrainConfig,
    world: &Arc<Communicator>,
    memory: impl Fn() -> Result<Memory>,
) -> Result<TrainingRun> {
    if let Some(run) = try_set_up(config, world.clone(), &memory()?)? {
        return Ok(run);
    }

    let halved = TrainConfig {
        halve_micro_batch: true,
        ..config.clone()
    };

    // After a lack of memory a device does nothing any more: it is used anew.
    let run = try_set_up(&halved, world.clone(), &memory()?)?;
    run.ok_or_else(|| Error::Bug("a stage was to be halved twice".into()))
}

/// The same, unless a device has too little memory and half as many pairs at once may fit.
fn try_set_up(
    config: &TrainConfig,
    world: Arc<Communicator>,
    place: &Memory,
) -> Result<Option<TrainingRun>> {
    let tokenizer = Arc::new(model_resolver::load_tokenizer(
        config.vocabulary.as_ref(),
        config.model.text.vocab_size,
    )?);

    let dataset = Dataset::open(&config.dataset)?;
    let validator = open_validator(config, tokenizer.clone())?;
    let digest = dataset.index().dataset.clone();
    let validated = validator
        .as_ref()
        .map(|validator| &validator.dataset.index().dataset);

    world.ensure_equal_across_ranks("data set", (&digest, validated))?;
    let own = world.rank_range(config.global_batch_size as usize);
    let teacher = config
        .distillation
        .as_ref()
        .map(|asked| ResolvedTeacher::resolve_teacher(config, asked))
        .transpose()?;

    let of = MemoryInputs {
        config,
        local_batch_size: own.len(),
        shard_bytes: dataset.index().shards.iter().map(|shard| shard.bytes).sum(),
        shuffle_window: SHUFFLE_WINDOW_BYTES,
        teacher: teacher.as_ref().map(ResolvedTeacher::image_tower),
        threads: rayon::current_num_threads(),
        device: place.device().map(|_| config.world.precision),
    };

    let asked = config;
    let (config, memory) = plan_batch(&of, place)?;
    let config = &config;
    let sizes = BatchSizes {
        global_batch: config.global_batch_size as usize,
        micro_batch: memory.micro_batch_size as usize,
        local_range: own,
    };

    let distillation = teacher
        .map(|teacher| teacher.build_distillation(place, config, &sizes))
        .transpose()?;

    let order = BatchSampler::new(dataset.index(), config.seed, sizes.global_batch)?;
    let steps = count_total_steps(config, order.steps_per_epoch())?;
    let steps_per_epoch = order.steps_per_epoch();

    let stage = Store::open(&artifacts::stage_prefix(
        &config.artifacts,
        &config.run.stage,
    ))?;
    let checkpoints = stage.join_prefix(CHECKPOINTS_FOLDER);
    let writer = match world.is_rank_zero() {
        true => Some(CheckpointWriter::new(
            checkpoints.clone(),
            Fence::acquire(&stage, fence_claim(config))?,
            config.checkpoint.keep as usize,
        )),
        false => None,
    };

    let (mut clip, mut params) = build_model(place, config, &sizes, memory.gradient_checkpointing);
    if config.synchronize_batch_norm && world.world_size() > 1 {
        clip.synchronize_batch_norm(world.clone());
    }

    let mut adamw = AdamW::new(&params, adamw_settings(config));
    let of = (config, digest.as_str());
    let resumed =
        resume::resume_newest_checkpoint((&checkpoints, &world), of, &mut params, &mut adamw)?;

    if resumed.is_none() {
        initialize_weights(config, &mut params)?;
    }

    let ResumedState {
        state,
        ema: average,
        history,
        best,
    } = resumed.unwrap_or_default();

    let decay = config.optimizer.average_decay;
    let average = average.or_else(|| decay.map(|decay| WeightEma::new(&params, decay)));
    let statistics = params.memory().alloc_f32(params.buffers.len());
    let accumulator = GradientAccumulator::with_ranks(
        &clip,
        &params,
        sizes.global_batch,
        sizes.micro_batch,
        world.clone(),
    );

    if !memory_suffices(asked, place, &world)? {
        return Ok(None);
    }

    if let Some(device) = place.device() {
        world.connect_devices(device)?;
    }

    world.ensure_equal_across_ranks(
        "weights",
        bytemuck::cast_slice::<f32, u32>(&params.values.to_host()),
    )?;

    let loader = start_loader(
        config,
        dataset,
        tokenizer,
        (state.step..steps, sizes.local_range.clone()),
    )?;

    Ok(Some(TrainingRun {
        config: config.clone(),
        memory,
        progress: RunProgress::new((steps, steps_per_epoch), state, history, best),
        dataset: digest,
        buffers_before_step: statistics,
        accumulator,
        schedule: build_schedule(config, steps),
        rank_sync: RankSync::new(world, &sizes)?,
        writer,
        clip,
        params,
        adamw,
        ema: average,
        distillation,
        loader,
        validator,
        stage,
    }))
}

/// Pairs.
#[derive(Debug)]
pub(super) struct BatchSizes {
    pub(super) global_batch: usize,
    /// What this rank computes at once.
    pub(super) micro_batch: usize,
    /// Which of a global batch are this rank's.
    pub(super) local_range: Range<usize>,
}

fn build_model(
    memory: &Memory,
    config: &TrainConfig,
    sizes: &BatchSizes,
    recompute: bool,
) -> (Clip, Params) {
    let capacity = BatchCapacity {
        batch: sizes.micro_batch,
        context: config.context_length as usize,
    };

    let precision = config.world.precision;
    let compute = ComputeOptions {
        recompute,
        precision,
    };

    let (mut clip, mut params) = Clip::new_in(memory, &config.model, capacity, compute);
    clip.freeze_image(&mut params, config.freeze == FrozenTower::Image);
    clip.mask_patches(config.masked_patches_percent as u32);
    (clip, params)
}

fn fence_claim(config: &TrainConfig) -> FenceClaim {
    let run = if config.run.uid.is_empty() {
        &config.run.name
    } else {
        &config.run.uid
    };

    FenceClaim {
        run: run.clone(),
        attempt: config.run.attempt.max(1) as u32,
    }
}

/// Optimizer steps of the stage.
fn count_total_steps(config: &TrainConfig, per_epoch: u64) -> Result<u64> {
    let steps = match config.length {
        TrainingLength::Steps(steps) => steps as u64,
        TrainingLength::Epochs(epochs) => (epochs as u64).saturating_mul(per_epoch),
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

fn adamw_settings(config: &TrainConfig) -> AdamWSettings {
    let optimizer = &config.optimizer;
    AdamWSettings {
        beta_1: optimizer.beta1,
        beta_2: optimizer.beta2,
        epsilon: optimizer.epsilon,
        weight_decay: optimizer.weight_decay,
        max_norm: optimizer.max_gradient_norm,
    }
}

fn build_schedule(config: &TrainConfig, total_steps: u64) -> LearningRateSchedule {
    let optimizer = &config.optimizer;
    let warmup_steps = optimizer.warmup_steps as u64;
    LearningRateSchedule {
        peak: optimizer.learning_rate,
        warmup_steps,
        total_steps,
    }
}

/// The teacher that a stage asks for, found but not built.
struct ResolvedTeacher {
    weights: model_resolver::ResolvedWeights,
    image: ImageTower,
    embed_dim: i32,
    loss_weight: f64,
}

impl ResolvedTeacher {
    fn resolve_teacher(config: &TrainConfig, asked: &DistillationConfig) -> Result<Self> {
        let DistillationConfig {
            teacher: uri,
            weight,
        } = asked;

        let weights = model_resolver::resolve_weights(uri)?;
        let (image, embed_dim) = weights.image_tower()?;
        let image = image.clone();
        let whole = ModelConfig {
            image: image.clone(),
            embed_dim,
            ..config.model.clone()
        };

        if let Some(problem) = whole.validation_error() {
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
            loss_weight: *weight,
        })
    }

    /// What it looks with, and the length of its features.
    fn image_tower(&self) -> (&ImageTower, usize) {
        (&self.image, self.embed_dim as usize)
    }

    fn build_distillation(
        self,
        memory: &Memory,
        config: &TrainConfig,
        sizes: &BatchSizes,
    ) -> Result<Distillation> {
        let mut teacher = Teacher::new(
            memory,
            &self.image,
            self.embed_dim as usize,
            sizes.micro_batch,
        );

        let unfit = WeightsError::error_mapper(&self.weights.uri, Error::Config);
        load_weights(&mut teacher.params, &self.weights.tensors, ModelPart::Image)
            .map_err(unfit)?;
        tracing::info!(uri = self.weights.uri, "teacher");
        let batch = sizes.local_range.len();
        let width = config.model.embed_dim as usize;

        Ok(Distillation::new(teacher, self.loss_weight, batch, width))
    }
}

/// Random weights, then what the sources give, the more special over the more general.
fn initialize_weights(config: &TrainConfig, params: &mut Params) -> Result<()> {
    params.init_values(config.seed);
    let WeightSources { model, image, text } = &config.initial_weights;
    let parts = [
        (model, ModelPart::All),
        (image, ModelPart::Image),
        (text, ModelPart::Text),
    ];

    for (uri, part) in parts
        .into_iter()
        .filter_map(|(uri, part)| Some((uri.as_ref()?, part)))
    {
        let found = model_resolver::resolve_weights(uri)?;
        let unfit = WeightsError::error_mapper(&found.uri, Error::Config);
        load_weights(params, &found.tensors, part).map_err(unfit)?;
        let (part, left_out) = (format!("{part:?}"), summarize_ignored(&found.tensors, part));
        tracing::info!(uri = found.uri, part, left_out, "initial weights");
    }

    Ok(())
}

fn open_validator(config: &TrainConfig, tokenizer: Arc<Tokenizer>) -> Result<Option<Validator>> {
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

fn start_loader(
    config: &TrainConfig,
    dataset: Dataset,
    tokenizer: Arc<Tokenizer>,
    (steps, share): (Range<u64>, Range<usize>),
) -> Result<DataLoader> {
    let side = config.model.image.resolution as usize;
    let global_batch = config.global_batch_size as usize;
    let devices = config.world.devices as usize;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = cores.div_ceil(2 * devices);
    let options = LoaderOptions {
        rank_range: share,
        augmentation: config.augmentation,
        duplicates: config.duplicates,
        context_length: config.context_length as usize,
        threads,
        max_skipped_ratio: config.max_skipped_percent / 100.0,
        ..LoaderOptions::new(config.seed, global_batch, steps, side)
    };

    Ok(DataLoader::start_workers(dataset, tokenizer, options)?)
}
