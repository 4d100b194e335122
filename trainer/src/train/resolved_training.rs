//! What a stage is trained with, found and checked once before memory is planned: configuration, data,
//! teacher. Reserves no memory of size and writes nothing.

use std::ops::Range;
use std::sync::Arc;

use cnclip_compute::collective::Collective;
use cnclip_compute::tensor::Memory;
use cnclip_crds::trainer_config::{TrainConfig, TrainingLength};
use cnclip_data::loader::{DataLoader, LoaderOptions};
use cnclip_data::order::{BatchSampler, SHUFFLE_WINDOW_BYTES};
use cnclip_data::shard::Dataset;
use cnclip_data::tokenizer::Tokenizer;
use cnclip_distributed::Communicator;
use cnclip_nn::memory::{CacheBudget, HostInputs, MemoryInputs};

use super::teacher::ResolvedTeacher;
use super::validator::Validator;
use crate::error::{Error, Result};
use crate::model_resolver;

/// The inputs of one stage on one rank, which no batch plan changes.
#[derive(Debug)]
pub(super) struct ResolvedTraining<'a> {
    pub(super) config: &'a TrainConfig,
    pub(super) communicator: &'a Arc<Communicator>,
    pub(super) teacher: Option<ResolvedTeacher>,
    pub(super) validator: Option<Validator>,
    /// Optimizer steps of the whole stage.
    pub(super) total_steps: u64,
    pub(super) steps_per_epoch: u64,
    dataset: Dataset,
    tokenizer: Arc<Tokenizer>,
    /// The samples of each global batch that are this rank's.
    local_range: Range<usize>,
}

impl<'a> ResolvedTraining<'a> {
    /// Opens the data sets, the vocabulary and the teacher's weights.
    ///
    /// # Errors
    /// If one of them cannot be used, the stage is too short for its warm-up, or other ranks see other data.
    pub(super) fn resolve(
        config: &'a TrainConfig,
        communicator: &'a Arc<Communicator>,
    ) -> Result<Self> {
        let tokenizer = Arc::new(model_resolver::load_tokenizer(
            config.vocabulary.as_ref(),
            config.model.text.vocab_size,
        )?);

        let dataset = Dataset::open(&config.dataset)?;
        let validator = Validator::open(config, tokenizer.clone())?;
        ensure_same_data(communicator, &dataset, validator.as_ref())?;

        let teacher = config
            .distillation
            .as_ref()
            .map(|distillation| ResolvedTeacher::resolve(config, distillation, communicator))
            .transpose()?;

        let global_batch = config.global_batch_size as usize;
        let sampler = BatchSampler::new(dataset.index(), config.seed, global_batch)?;
        let steps_per_epoch = sampler.steps_per_epoch();

        Ok(Self {
            config,
            communicator,
            teacher,
            validator,
            total_steps: count_total_steps(config, steps_per_epoch)?,
            steps_per_epoch,
            dataset,
            tokenizer,
            local_range: communicator.rank_range(global_batch),
        })
    }

    /// The digest of the training data.
    pub(super) fn dataset_digest(&self) -> &str {
        &self.dataset.index().dataset
    }

    /// Samples of each global batch that are this rank's.
    pub(super) fn local_batch_size(&self) -> usize {
        self.local_range.len()
    }

    /// What decides how much memory this rank needs, under the configuration of one attempt.
    pub(super) fn memory_inputs<'b>(
        &'b self,
        config: &'b TrainConfig,
        memory: &Memory,
    ) -> MemoryInputs<'b> {
        let shards = &self.dataset.index().shards;
        MemoryInputs {
            config,
            local_batch_size: self.local_batch_size(),
            shard_bytes: shards.iter().map(|shard| shard.bytes).sum(),
            shuffle_window: SHUFFLE_WINDOW_BYTES,
            teacher: self.teacher.as_ref().map(ResolvedTeacher::image_tower),
            threads: rayon::current_num_threads(),
            device: memory.device().map(|_| config.world.precision),
            host: HostInputs {
                loader_threads: self.loader_threads(),
                validation_items: self.validator.as_ref().map_or(0, Validator::item_count),
                largest_shard_bytes: shards.iter().map(|shard| shard.bytes).max().unwrap_or(0),
            },
        }
    }

    /// Half of the cores, because the other half computes; ranks of one process share them.
    fn loader_threads(&self) -> usize {
        let devices = self.config.world.devices as usize;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        cores.div_ceil(2 * devices)
    }

    /// Starts the threads that load the batches of the steps from `first_step` on.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start_loader(
        &self,
        first_step: u64,
        seed: u64,
        cache: CacheBudget,
    ) -> Result<DataLoader> {
        let config = self.config;
        let side = config.model.image.resolution as usize;
        let global_batch = config.global_batch_size as usize;
        let steps = first_step..self.total_steps;

        let options = LoaderOptions {
            rank_range: self.local_range.clone(),
            augmentation: config.augmentation,
            duplicates: config.duplicates,
            context_length: config.context_length as usize,
            threads: self.loader_threads(),
            shard_cache_bytes: cache.shard_bytes,
            image_cache_bytes: cache.image_bytes,
            max_skipped_ratio: config.max_skipped_percent / 100.0,
            ..LoaderOptions::new(seed, global_batch, steps, side)
        };

        let dataset = self.dataset.clone();
        let tokenizer = self.tokenizer.clone();
        Ok(DataLoader::start_workers(dataset, tokenizer, options)?)
    }
}

/// Ranks of other data would train on without an error, on gradients that mean nothing together.
fn ensure_same_data(
    communicator: &Communicator,
    dataset: &Dataset,
    validator: Option<&Validator>,
) -> Result<()> {
    let training = &dataset.index().dataset;
    let validation = validator.map(Validator::dataset_digest);
    communicator.ensure_equal_across_ranks("data set", (training, validation))?;
    Ok(())
}

/// Optimizer steps of the stage.
fn count_total_steps(config: &TrainConfig, steps_per_epoch: u64) -> Result<u64> {
    let steps = match config.length {
        TrainingLength::Steps(steps) => steps as u64,
        // Saturating: a product that wrapped around would end the stage early instead of late.
        TrainingLength::Epochs(epochs) => (epochs as u64).saturating_mul(steps_per_epoch),
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
