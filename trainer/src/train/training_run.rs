//! A run between two steps: everything it holds, and what can be done with it.

mod checkpointing;
mod train_step;

use std::sync::Arc;

use cnclip_crds::report::{MemoryReport, ProgressReport, TrainerActivity, ValidationReport};
use cnclip_crds::tasks::RetrievalRecalls;
use cnclip_crds::trainer_config::TrainConfig;

use super::finalize;
use super::meter::Meter;
use super::rank_sync::RankSync;
use crate::checkpoint::{CheckpointWriter, TrainingState};
use crate::error::Result;
use crate::evaluate::{ClipEncoder, EncodeOptions, EncoderInputSizes, evaluate_recalls};
use crate::progress::Reporter;
use crate::progress::history::TrainingHistory;
use cnclip_compute::collective::Collective;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::{Tensor, TensorView};
use cnclip_data::loader::DataLoader;
use cnclip_data::shard::Dataset;
use cnclip_data::store::Store;
use cnclip_data::tokenizer::Tokenizer;
use cnclip_nn::accumulate::GradientAccumulator;
use cnclip_nn::distillation::Distillation;
use cnclip_nn::ema::WeightEma;
use cnclip_nn::model::clip::Clip;
use cnclip_nn::optimizer::AdamW;
use cnclip_nn::schedule::LearningRateSchedule;

/// Held-out pairs, and how often they are looked at.
#[derive(Debug)]
pub(super) struct Validator {
    pub(super) dataset: Dataset,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) every_steps: u64,
}

/// How far a run is.
#[derive(Debug, Default)]
pub(super) struct RunProgress {
    steps: u64,
    steps_per_epoch: u64,
    step: u64,
    samples_seen: u64,
    /// Samples that earlier attempts could not use.
    skipped_before: u64,
    /// Steps without a finite loss and gradient.
    steps_skipped: u64,
    meter: Meter,
    train_seconds: f64,
    gradient_norm: Option<f64>,
    validation: Option<ValidationReport>,
    best: Option<ValidationReport>,
    history: TrainingHistory,
}

impl RunProgress {
    /// Where a checkpoint left off, of so many steps in all and in an epoch.
    pub(super) fn new(
        (steps, steps_per_epoch): (u64, u64),
        state: TrainingState,
        history: TrainingHistory,
        best: Option<ValidationReport>,
    ) -> Self {
        let TrainingState {
            step,
            steps_skipped,
            samples_seen,
            samples_skipped: skipped_before,
            ..
        } = state;

        Self {
            steps,
            steps_per_epoch,
            step,
            samples_seen,
            skipped_before,
            steps_skipped,
            history,
            best,
            ..Self::default()
        }
    }
}

/// One stage at work.
#[derive(Debug)]
pub(super) struct TrainingRun {
    pub(super) config: TrainConfig,
    /// How it fits into memory.
    pub(super) memory: MemoryReport,
    pub(super) progress: RunProgress,
    /// The digest of the data set.
    pub(super) dataset: String,
    pub(super) clip: Clip,
    pub(super) params: Params,
    pub(super) adamw: AdamW,
    /// The average of the weights, if it was asked for.
    pub(super) ema: Option<WeightEma>,
    /// What `params.state` was before the step.
    pub(super) buffers_before_step: Tensor,
    pub(super) accumulator: GradientAccumulator,
    pub(super) rank_sync: RankSync,
    pub(super) distillation: Option<Distillation>,
    pub(super) schedule: LearningRateSchedule,
    pub(super) loader: DataLoader,
    pub(super) validator: Option<Validator>,
    /// Rank 0's alone.
    pub(super) writer: Option<CheckpointWriter>,
    pub(super) stage: Store,
}

impl TrainingRun {
    /// Steps completed, skipped ones among them.
    pub(super) fn completed_steps(&self) -> u64 {
        self.progress.step
    }

    pub(super) fn is_done(&self) -> bool {
        self.progress.step >= self.progress.steps
    }

    fn is_due(&self, every: u64) -> bool {
        self.is_done() || self.progress.step.is_multiple_of(every.max(1))
    }

    pub(super) fn is_report_due(&self) -> bool {
        self.is_due(self.config.report_every_steps as u64)
    }

    pub(super) fn is_validation_due(&self) -> bool {
        self.validator
            .as_ref()
            .is_some_and(|validator| self.is_due(validator.every_steps))
    }

    pub(super) fn is_checkpoint_due(&self) -> bool {
        self.is_due(self.config.checkpoint.every_steps as u64)
    }

    /// Tells what is known before the first step.
    pub(super) fn report_start(&self, reporter: &Reporter) {
        let world = &self.rank_sync.world;
        tracing::info!(
            rank = world.rank(),
            ranks = world.world_size(),
            parameters = self.params.values.len(),
            pairs_per_step = self.config.global_batch_size,
            steps_per_epoch = self.progress.steps_per_epoch,
            dataset = self.dataset,
            "ready to train"
        );

        let progress = &self.progress;
        reporter.update_report(|report| {
            report.activity = TrainerActivity::Training;
            report.step = progress.step as i64;
            report.steps = progress.steps as i64;
            report.samples_seen = progress.samples_seen as i64;
            report.steps_skipped = progress.steps_skipped as i64;
            report.best = progress.best;
            report.memory = Some(self.memory);
        });
    }

    /// Whether any rank was asked to stop; all stop after the same step.
    ///
    /// # Errors
    /// If a rank is lost, or all together skipped too much.
    pub(super) fn sync_stop(&mut self, stop: bool) -> Result<bool> {
        self.rank_sync.sync_stop(stop, &self.loader)
    }

    /// Tells how far the run is, and begins a new mean. Rank 0 tells the numbers, which are those of
    /// all ranks; the others how far they are, and for how long they waited.
    pub(super) fn report_progress(&mut self, reporter: &Reporter) {
        let meter = std::mem::take(&mut self.progress.meter);
        let waited = self.rank_sync.wait_time().as_secs_f64();
        reporter.update_report(|report| {
            (report.step, report.wait_seconds) = (self.progress.step as i64, waited);
            if self.rank_sync.world.is_rank_zero() {
                self.fill_report(meter, report);
            }
        });

        self.progress.history.push(&reporter.current_report());
    }

    fn fill_report(&self, meter: Meter, report: &mut ProgressReport) {
        let progress = &self.progress;
        report.epoch = progress.step as f64 / progress.steps_per_epoch.max(1) as f64;
        report.loss = meter.mean_loss().or(report.loss);
        report.distillation_loss = meter.mean_distillation_loss().or(report.distillation_loss);
        report.learning_rate = progress
            .step
            .checked_sub(1)
            .map(|step| self.schedule.learning_rate(step));

        report.logit_scale = Some(f64::from(self.clip.logit_scale(&self.params)).ln());
        report.gradient_norm = progress.gradient_norm.or(report.gradient_norm);
        report.samples_per_second = meter.samples_per_second().or(report.samples_per_second);
        report.eta_seconds = meter
            .estimate_seconds(progress.steps - progress.step)
            .or(report.eta_seconds);

        report.samples_seen = progress.samples_seen as i64;
        report.samples_skipped = self.skipped_samples() as i64;
        report.steps_skipped = progress.steps_skipped as i64;
        report.train_seconds = progress.train_seconds;
    }

    fn skipped_samples(&self) -> u64 {
        self.progress.skipped_before + self.loader.skip_counts().total_skipped()
    }

    /// Puts the average in the place of the weights, where there is one, or the weights back.
    fn swap_ema(&mut self) {
        if let Some(average) = &mut self.ema {
            average.swap_with_params(&mut self.params);
        }
    }

    /// Measures recall over all validation pairs: that of the average, where there is one.
    ///
    /// # Errors
    /// If the data set cannot be read.
    pub(super) fn run_validation(&mut self, reporter: &Reporter) -> Result<()> {
        // Rank 0's running statistics are those of the model.
        let state = self
            .rank_sync
            .world
            .broadcast(&self.params.buffers.to_host())?;
        self.params.buffers.copy_from(TensorView::Host(&state));
        self.swap_ema();
        let recalls = self.measure_recalls(reporter);

        self.swap_ema();
        self.params.memory().synchronize()?;
        let recalls = recalls?;
        reporter.update_report(|report| report.activity = TrainerActivity::Training);
        let Some(recalls) = recalls else {
            return Ok(());
        };

        let found = ValidationReport {
            step: self.progress.step as i64,
            recalls,
        };

        self.progress.validation = Some(found);
        self.progress.best = finalize::better_validation(self.progress.best, found);
        reporter.update_report(|report| {
            report.validation = Some(found);
            report.best = self.progress.best;
        });

        self.progress.history.push(&reporter.current_report());
        Ok(())
    }

    /// Recall of the weights that are in place, for rank 0.
    fn measure_recalls(&mut self, reporter: &Reporter) -> Result<Option<RetrievalRecalls>> {
        let Some(validator) = &self.validator else {
            return Ok(None);
        };

        reporter.update_report(|report| report.activity = TrainerActivity::Validating);
        let sizes = EncoderInputSizes {
            image_size: self.config.model.image.resolution as usize,
            context_length: self.config.context_length as usize,
            batch_size: self.accumulator.micro_batch_size(),
        };

        let most_skipped = self.config.max_skipped_percent / 100.0;
        let mut encoder = ClipEncoder {
            clip: &mut self.clip,
            params: &mut self.params,
        };

        let dataset = &validator.dataset;
        let tokenizer = &validator.tokenizer;

        evaluate_recalls(
            dataset,
            tokenizer,
            &mut encoder,
            EncodeOptions {
                input_sizes: sizes,
                max_skipped_ratio: most_skipped,
            },
            &self.rank_sync.world,
        )
    }
}
