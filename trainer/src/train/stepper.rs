//! The trained model with all that one optimizer step needs: forward, losses, backward, update. Never
//! which batch comes next, and never how far the run is.

use std::sync::Arc;

use cnclip_compute::collective::Collective;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::{Memory, Tensor, TensorView};
use cnclip_crds::stage::{DuplicatePolicy, FrozenTower};
use cnclip_crds::trainer_config::{TrainConfig, WeightSources};
use cnclip_data::loader::SampleBatch;
use cnclip_distributed::Communicator;
use cnclip_nn::accumulate::GradientAccumulator;
use cnclip_nn::distillation::Distillation;
use cnclip_nn::ema::WeightEma;
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ClipBatch, ComputeOptions};
use cnclip_nn::optimizer::{AdamW, AdamWSettings};
use cnclip_nn::schedule::LearningRateSchedule;

use super::batch_planner::PlannedBatch;
use super::meter::StepLosses;
use super::rank_sync::RankSync;
use crate::checkpoint::{Checkpoint, MOMENTS_FILE, UNAVERAGED_WEIGHTS_FILE, WEIGHTS_FILE};
use crate::error::{Error, Result};
use crate::model_resolver;
use crate::rank_values::broadcast_params;
use crate::weights::{
    ModelPart, WeightsError, load_moments, load_weights, summarize_ignored, write_moments,
    write_safetensors,
};

/// Model, optimizer and gradient accumulator of one rank.
#[derive(Debug)]
pub(super) struct Stepper {
    clip: Clip,
    params: Params,
    adamw: AdamW,
    schedule: LearningRateSchedule,
    /// The average of the weights, if one is configured.
    ema: Option<WeightEma>,
    accumulator: GradientAccumulator,
    distillation: Option<Distillation>,
    /// The running statistics before the step, to undo a skipped one.
    buffers_before_step: Tensor,
    duplicates: DuplicatePolicy,
    dropout_seed: u64,
    /// A step has begun and not ended.
    is_in_step: bool,
}

/// What became of one step.
#[derive(Debug)]
pub(super) enum StepOutcome {
    /// The weights changed.
    Updated {
        losses: StepLosses,
        gradient_norm: f64,
    },
    /// Loss or gradient was not finite: model and optimizer are as they were.
    Skipped { reason: String },
}

/// The tensors of a checkpoint as safetensors files.
#[derive(Debug)]
pub(super) struct SerializedModel {
    /// The model: the average, where weights are averaged.
    pub(super) weights: Vec<u8>,
    pub(super) moments: Vec<u8>,
    /// The weights that go on training, where `weights` is their average.
    pub(super) unaveraged: Option<Vec<u8>>,
}

impl Stepper {
    /// Reserves all memory of a stage in the place where the rank computes. Weights are zeros yet.
    pub(super) fn new(
        memory: &Memory,
        plan: &PlannedBatch,
        communicator: &Arc<Communicator>,
        distillation: Option<Distillation>,
        total_steps: u64,
    ) -> Self {
        let config = &plan.config;
        let (clip, params) = build_model(memory, plan, communicator);
        let adamw = AdamW::new(&params, adamw_settings(config));
        let decay = config.optimizer.average_decay;
        let ema = decay.map(|decay| WeightEma::new(&params, decay));
        let buffers_before_step = params.memory().alloc_f32(params.buffers.len());
        let accumulator = GradientAccumulator::with_ranks(
            &clip,
            &params,
            config.global_batch_size as usize,
            plan.micro_batch_size(),
            communicator.clone(),
        );

        Self {
            clip,
            params,
            adamw,
            schedule: build_schedule(config, total_steps),
            ema,
            accumulator,
            distillation,
            buffers_before_step,
            duplicates: config.duplicates,
            dropout_seed: config.seed,
            is_in_step: false,
        }
    }

    /// Masks of this and the other stages of a run differ.
    pub(super) fn set_dropout_seed(&mut self, seed: u64) {
        self.dropout_seed = seed;
    }

    /// Initializes the weights at random, then from the configured sources: the whole model first, so
    /// that a source of one tower overrides that tower.
    ///
    /// # Errors
    /// If a source cannot be found, or does not fit the model.
    pub(super) fn initialize_weights(&mut self, config: &TrainConfig) -> Result<()> {
        // Random values first: a source of one tower leaves the other tower's weights as they are.
        self.params.init_values(config.seed);
        let WeightSources { model, image, text } = &config.initial_weights;
        let sources = [
            (model, ModelPart::All),
            (image, ModelPart::Image),
            (text, ModelPart::Text),
        ];

        for (uri, part) in sources {
            if let Some(uri) = uri {
                self.load_source(uri, part)?;
            }
        }

        // The average starts at the initial weights, so it needs no bias correction.
        if let Some(ema) = &mut self.ema {
            ema.restart_from(&self.params);
        }

        Ok(())
    }

    fn load_source(&mut self, uri: &str, part: ModelPart) -> Result<()> {
        let source = model_resolver::resolve_weights(uri)?;
        // The user chose this source, so a misfit is a configuration error, not damaged data.
        let to_error = WeightsError::error_mapper(&source.uri, Error::Config);
        load_weights(&mut self.params, &source.tensors, part).map_err(to_error)?;

        let left_out = summarize_ignored(&source.tensors, part);
        let part = format!("{part:?}");
        tracing::info!(uri = source.uri, part, left_out, "loaded initial weights");
        Ok(())
    }

    /// Restores weights, their average and the moments.
    ///
    /// # Errors
    /// If a file of the checkpoint is not what was written, or does not hold what the stage trains: then the state is of
    /// no use until another checkpoint is loaded.
    pub(super) fn load_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let to_error = WeightsError::error_mapper(&checkpoint.uri, Error::Data);
        let weights = checkpoint.open_weights(WEIGHTS_FILE)?;
        load_weights(&mut self.params, &weights, ModelPart::All).map_err(&to_error)?;

        // With an average, the file of the model holds the average: what trains is in a file of its own.
        if let Some(ema) = &mut self.ema {
            ema.restart_from(&self.params);
            let unaveraged = checkpoint.open_weights(UNAVERAGED_WEIGHTS_FILE)?;
            load_weights(&mut self.params, &unaveraged, ModelPart::All).map_err(&to_error)?;
        }

        let moments = checkpoint.open_weights(MOMENTS_FILE)?;
        load_moments(&self.params, &moments, &mut self.adamw).map_err(&to_error)?;
        Ok(())
    }

    /// Takes the weights of rank 0, and their average.
    ///
    /// # Errors
    /// If a rank is lost.
    pub(super) fn broadcast_weights(&mut self, communicator: &Communicator) -> Result<()> {
        broadcast_params(communicator, &mut self.params)?;
        if let Some(ema) = &mut self.ema {
            communicator.broadcast_tensor(ema.values.view_mut())?;
            communicator.broadcast_tensor(ema.buffers.view_mut())?;
        }

        Ok(())
    }

    /// Takes the optimizer's moments of rank 0.
    ///
    /// # Errors
    /// If a rank is lost.
    pub(super) fn broadcast_moments(&mut self, communicator: &Communicator) -> Result<()> {
        communicator.broadcast_tensor(self.adamw.exp_avg.view_mut())?;
        communicator.broadcast_tensor(self.adamw.exp_avg_sq.view_mut())?;
        Ok(())
    }

    /// Checks that training starts from the same weights on all ranks.
    ///
    /// # Errors
    /// If a rank has others, or is lost.
    pub(super) fn ensure_same_weights(&self, communicator: &Communicator) -> Result<()> {
        let values = self.params.values.to_host();
        // Bits, not numbers: a NaN must equal itself, and zeros of both signs must differ.
        let bits: &[u32] = bytemuck::cast_slice(&values);
        communicator.ensure_equal_across_ranks("weights", bits)?;
        Ok(())
    }

    /// Values of all trained and frozen weights.
    pub(super) fn parameter_count(&self) -> usize {
        self.params.values.len()
    }

    /// Samples that are computed at once.
    pub(super) fn micro_batch_size(&self) -> usize {
        self.accumulator.micro_batch_size()
    }

    /// Natural logarithm of the factor on the similarities.
    pub(super) fn log_logit_scale(&self) -> f64 {
        f64::from(self.clip.logit_scale(&self.params)).ln()
    }

    /// The rate of a step, counted from 0.
    pub(super) fn learning_rate(&self, step: u64) -> f64 {
        self.schedule.learning_rate(step)
    }

    /// One optimizer step over this rank's share of a global batch. `updates` counts the steps before it
    /// that were not skipped.
    ///
    /// # Errors
    /// If a rank is lost, or the device failed.
    pub(super) fn step(
        &mut self,
        step: u64,
        updates: u64,
        batch: &SampleBatch,
        rank_sync: &mut RankSync,
    ) -> Result<StepOutcome> {
        // The forward pass updates running statistics before the loss is known to be finite.
        self.buffers_before_step
            .copy_from(self.params.buffers.view());
        self.is_in_step = true;

        if self.duplicates == DuplicatePolicy::Positives {
            // The contrastive loss compares each pair with those of all ranks, so duplicates are
            // looked for in the whole global batch.
            let fingerprints = rank_sync.gather_fingerprints(&batch.fingerprints);
            self.accumulator.loss.match_equal(fingerprints);
        }

        let losses = self.compute_gradients(step, batch, rank_sync);
        // Before the update: the all-reduce of a lost rank leaves a part of the sum, which must not
        // reach the weights.
        rank_sync.communicator().check_peers()?;
        let update = self.apply_gradients(step, updates, losses.total);

        // Kernels run asynchronously and fail late: only after this are the numbers read back real.
        self.params.memory().synchronize()?;
        self.is_in_step = false;
        match update {
            Ok(gradient_norm) => Ok(StepOutcome::Updated {
                losses,
                gradient_norm,
            }),
            Err(reason) => {
                // The forward pass moved the running statistics already; weights are untouched.
                self.params
                    .buffers
                    .copy_from(self.buffers_before_step.view());
                Ok(StepOutcome::Skipped { reason })
            }
        }
    }

    /// Puts back what an unfinished step changed: then the state is that after the step before. A step whose ranks are
    /// lost ends before it changes a weight.
    pub(super) fn discard_unfinished_step(&mut self) {
        if std::mem::take(&mut self.is_in_step) {
            self.params
                .buffers
                .copy_from(self.buffers_before_step.view());
        }
    }

    /// Forward, losses, backward: the gradients of one global batch, given this rank's share of it.
    fn compute_gradients(
        &mut self,
        step: u64,
        batch: &SampleBatch,
        rank_sync: &mut RankSync,
    ) -> StepLosses {
        let samples = batch.sample_ids.len();
        let texts = PackedTexts {
            ids: &batch.token_ids,
            offsets: &batch.offsets,
        };

        let batch = ClipBatch {
            pixels: PixelBatch::Bytes(&batch.pixels),
            texts,
        };

        let communicator = rank_sync.communicator().clone();
        let buckets = rank_sync.gradient_buckets();
        // Masks depend on a sample's place in the global batch, not on the rank that has it: any
        // number of ranks trains alike.
        let first_sample = communicator.rank() * samples;
        let dropout = Dropout::new(self.dropout_seed, step, first_sample as u64);
        let Self {
            accumulator,
            clip,
            params,
            distillation,
            ..
        } = self;

        params.clear_gradients();
        let score = accumulator.forward(clip, params, batch, dropout);
        let mut losses = StepLosses {
            total: score.loss,
            distillation: None,
        };

        // Between forward and backward: the distillation adds to the gradients of the image features.
        if let Some(distillation) = distillation {
            let images = accumulator.image_features_and_gradients(samples);
            let distance = distillation.compute_loss(batch.pixels, images, &*communicator);
            losses.total += distillation.loss_weight() * distance;
            losses.distillation = Some(distance);
        }

        // Before `backward`, which reduces buckets as they fill: later it would not be summed.
        clip.add_logit_scale_gradient(params, score.logit_scale_gradient as f32);
        // Buckets are reduced while the backward pass goes on; what is left is awaited after it.
        accumulator.backward(clip, params, batch, dropout, buckets);
        buckets.finish_all_reduce(&mut params.gradients.view_mut());
        losses
    }

    /// Changes the weights by their gradients, or nothing at all; gives the gradient's norm.
    ///
    /// # Errors
    /// What is not finite.
    fn apply_gradients(&mut self, step: u64, updates: u64, loss: f64) -> Result<f64, String> {
        // Loss and reduced gradients are equal on all ranks, so all skip the same steps.
        if !loss.is_finite() {
            return Err(format!("the loss is {loss}"));
        }

        // The schedule counts all steps, but bias correction only those that the moments took part in.
        let learning_rate = self.schedule.learning_rate(step);
        let norm = self.adamw.step(&mut self.params, updates, learning_rate);
        let norm = norm.map_err(|error| error.to_string())?;

        // Before the average takes the weights in, which must not hold a scale out of bounds.
        self.clip.clamp_logit_scale(&mut self.params);
        if let Some(ema) = &mut self.ema {
            ema.update_average(&self.params, updates);
        }

        Ok(norm)
    }

    /// Gives all ranks the running statistics of rank 0, which are those of the model.
    ///
    /// # Errors
    /// If a rank is lost.
    pub(super) fn sync_buffers(&mut self, communicator: &Communicator) -> Result<()> {
        // Without synchronized batch norm each rank's statistics are of its own samples. Rank 0's
        // are taken, as PyTorch's DistributedDataParallel does.
        let averages = self.ema.as_mut().map(|ema| &mut ema.buffers);
        for buffers in [&mut self.params.buffers].into_iter().chain(averages) {
            let of_rank_zero = communicator.broadcast(&buffers.to_host())?;
            buffers.copy_from(TensorView::Host(&of_rank_zero));
        }

        Ok(())
    }

    /// Lends the model with its averaged weights, where there is an average, and puts the trained
    /// weights back.
    ///
    /// # Errors
    /// Those of `use_model`, and if the device failed meanwhile.
    pub(super) fn with_ema_weights<R>(
        &mut self,
        use_model: impl FnOnce(&mut Clip, &mut Params) -> Result<R>,
    ) -> Result<R> {
        self.swap_ema();
        let result = use_model(&mut self.clip, &mut self.params);
        // Also after an error of `use_model`: the next step must find the weights that are trained.
        self.swap_ema();

        // A device's fault first: whatever was computed after it is wrong, the other error included.
        self.params.memory().synchronize()?;
        result
    }

    fn swap_ema(&mut self) {
        if let Some(ema) = &mut self.ema {
            ema.swap_with_params(&mut self.params);
        }
    }

    /// Copies the model and the optimizer's state out of the rank's memory.
    ///
    /// # Errors
    /// If the device failed: then the copies are not what it held.
    pub(super) fn serialize(&mut self) -> Result<SerializedModel> {
        // Before the swap: within `with_ema_weights` the parameters are the average.
        let unaveraged = self.ema.as_ref().map(|_| write_safetensors(&self.params));
        let weights = self.with_ema_weights(|_, params| Ok(write_safetensors(params)))?;
        let moments = write_moments(&self.params, &self.adamw);
        self.params.memory().synchronize()?;

        Ok(SerializedModel {
            weights,
            moments,
            unaveraged,
        })
    }
}

fn build_model(
    memory: &Memory,
    plan: &PlannedBatch,
    communicator: &Arc<Communicator>,
) -> (Clip, Params) {
    let config = &plan.config;
    let capacity = BatchCapacity {
        batch: plan.micro_batch_size(),
        context: config.context_length as usize,
    };

    let compute = ComputeOptions {
        recompute: plan.report.gradient_checkpointing,
        precision: config.world.precision,
    };

    let (mut clip, mut params) = Clip::new_in(memory, &config.model, capacity, compute);
    clip.freeze_image(&mut params, config.freeze == FrozenTower::Image);
    clip.mask_patches(config.masked_patches_percent as u32);
    // On one rank the local statistics are the global ones, and an exchange would only cost time.
    if config.synchronize_batch_norm && communicator.world_size() > 1 {
        clip.synchronize_batch_norm(communicator.clone());
    }

    (clip, params)
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
    LearningRateSchedule {
        peak: optimizer.learning_rate,
        warmup_steps: optimizer.warmup_steps as u64,
        total_steps,
    }
}
