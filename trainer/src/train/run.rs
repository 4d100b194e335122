//! A run between two steps: everything it holds, and what can be done with it.

mod save;
mod step;

use std::sync::Arc;

use cnclip_crds::report::{Activity, MemoryReport, Recalls, Report, Validation};
use cnclip_crds::run_config::TrainConfig;

use super::ending;
use super::meter::Meter;
use super::together::Together;
use crate::checkpoint::{State, Writer};
use crate::error::Result;
use crate::evaluate::{Sizes, recalls};
use crate::report::Reporter;
use crate::report::history::History;
use cnclip_compute::collective::Ranks;
use cnclip_compute::params::Params;
use cnclip_compute::tensor::{Array, View};
use cnclip_data::loader::Loader;
use cnclip_data::shard::Dataset;
use cnclip_data::store::Store;
use cnclip_data::tokenize::Tokenizer;
use cnclip_nn::accumulate::Accumulator;
use cnclip_nn::average::Average;
use cnclip_nn::distillation::Distillation;
use cnclip_nn::model::clip::Clip;
use cnclip_nn::optimizer::AdamW;
use cnclip_nn::schedule::Schedule;

/// Held-out pairs, and how often they are looked at.
#[derive(Debug)]
pub(super) struct Validator {
    pub(super) dataset: Dataset,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) every_steps: u64,
}

/// How far a run is.
#[derive(Debug, Default)]
pub(super) struct Progress {
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
    validation: Option<Validation>,
    best: Option<Validation>,
    history: History,
}

impl Progress {
    /// Where a checkpoint left off, of so many steps in all and in an epoch.
    pub(super) fn new(
        (steps, steps_per_epoch): (u64, u64),
        state: State,
        history: History,
        best: Option<Validation>,
    ) -> Self {
        let State {
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
pub(super) struct Run {
    pub(super) config: TrainConfig,
    /// How it fits into memory.
    pub(super) memory: MemoryReport,
    pub(super) progress: Progress,
    /// The digest of the data set.
    pub(super) dataset: String,
    pub(super) clip: Clip,
    pub(super) params: Params,
    pub(super) adamw: AdamW,
    /// The average of the weights, if it was asked for.
    pub(super) average: Option<Average>,
    /// What `params.state` was before the step.
    pub(super) statistics: Array,
    pub(super) accumulator: Accumulator,
    pub(super) together: Together,
    pub(super) distillation: Option<Distillation>,
    pub(super) schedule: Schedule,
    pub(super) loader: Loader,
    pub(super) validator: Option<Validator>,
    /// Rank 0's alone.
    pub(super) writer: Option<Writer>,
    pub(super) stage: Store,
}

impl Run {
    /// Steps completed, skipped ones among them.
    pub(super) fn step(&self) -> u64 {
        self.progress.step
    }

    pub(super) fn done(&self) -> bool {
        self.progress.step >= self.progress.steps
    }

    fn due(&self, every: u64) -> bool {
        self.done() || self.progress.step.is_multiple_of(every.max(1))
    }

    pub(super) fn report_due(&self) -> bool {
        self.due(self.config.report_every_steps as u64)
    }

    pub(super) fn validation_due(&self) -> bool {
        self.validator
            .as_ref()
            .is_some_and(|validator| self.due(validator.every_steps))
    }

    pub(super) fn checkpoint_due(&self) -> bool {
        self.due(self.config.checkpoint.every_steps as u64)
    }

    /// Tells what is known before the first step.
    pub(super) fn tell_start(&self, reporter: &Reporter) {
        let world = &self.together.world;
        tracing::info!(
            rank = world.rank(),
            ranks = world.count(),
            parameters = self.params.values.len(),
            pairs_per_step = self.config.global_batch_size,
            steps_per_epoch = self.progress.steps_per_epoch,
            dataset = self.dataset,
            "ready to train"
        );

        let progress = &self.progress;
        reporter.update(|report| {
            report.activity = Activity::Training;
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
    pub(super) fn agree(&mut self, stop: bool) -> Result<bool> {
        self.together.agree(stop, &self.loader)
    }

    /// Tells how far the run is, and begins a new mean. Rank 0 tells the numbers, which are those of
    /// all ranks; the others how far they are, and for how long they waited.
    pub(super) fn report(&mut self, reporter: &Reporter) {
        let meter = std::mem::take(&mut self.progress.meter);
        let waited = self.together.waited().as_secs_f64();
        reporter.update(|report| {
            (report.step, report.wait_seconds) = (self.progress.step as i64, waited);
            if self.together.world.is_first() {
                self.describe(meter, report);
            }
        });

        self.progress.history.push(&reporter.current());
    }

    fn describe(&self, meter: Meter, report: &mut Report) {
        let progress = &self.progress;
        report.epoch = progress.step as f64 / progress.steps_per_epoch.max(1) as f64;
        report.loss = meter.mean_loss().or(report.loss);
        report.distillation_loss = meter.mean_distillation().or(report.distillation_loss);
        report.learning_rate = progress
            .step
            .checked_sub(1)
            .map(|step| self.schedule.rate(step));

        report.logit_scale = Some(f64::from(self.clip.logit_scale(&self.params)).ln());
        report.gradient_norm = progress.gradient_norm.or(report.gradient_norm);
        report.samples_per_second = meter.pairs_per_second().or(report.samples_per_second);
        report.eta_seconds = meter
            .seconds_for(progress.steps - progress.step)
            .or(report.eta_seconds);

        report.samples_seen = progress.samples_seen as i64;
        report.samples_skipped = self.skipped() as i64;
        report.steps_skipped = progress.steps_skipped as i64;
        report.train_seconds = progress.train_seconds;
    }

    fn skipped(&self) -> u64 {
        self.progress.skipped_before + self.loader.skipped().total()
    }

    /// Puts the average in the place of the weights, where there is one, or the weights back.
    fn swap_average(&mut self) {
        if let Some(average) = &mut self.average {
            average.swap(&mut self.params);
        }
    }

    /// Measures recall over all validation pairs: that of the average, where there is one.
    ///
    /// # Errors
    /// If the data set cannot be read.
    pub(super) fn validate(&mut self, reporter: &Reporter) -> Result<()> {
        // Rank 0's running statistics are those of the model.
        let state = self.together.world.hear(&self.params.state.read())?;
        self.params.state.copy_from(View::Host(&state));
        self.swap_average();
        let recalls = self.recalls(reporter);

        self.swap_average();
        self.params.memory().check()?;
        let recalls = recalls?;
        reporter.update(|report| report.activity = Activity::Training);
        let Some(recalls) = recalls else {
            return Ok(());
        };

        let found = Validation {
            step: self.progress.step as i64,
            recalls,
        };

        self.progress.validation = Some(found);
        self.progress.best = ending::better(self.progress.best, found);
        reporter.update(|report| {
            report.validation = Some(found);
            report.best = self.progress.best;
        });

        self.progress.history.push(&reporter.current());
        Ok(())
    }

    /// Recall of the weights that are in place, for rank 0.
    fn recalls(&mut self, reporter: &Reporter) -> Result<Option<Recalls>> {
        let Some(validator) = &self.validator else {
            return Ok(None);
        };

        reporter.update(|report| report.activity = Activity::Validating);
        let sizes = Sizes {
            side: self.config.model.image.resolution as usize,
            context_length: self.config.context_length as usize,
            batch: self.accumulator.at_once(),
        };

        let most_skipped = self.config.max_skipped_percent / 100.0;
        let mut encoder = (&mut self.clip, &mut self.params);
        let dataset = &validator.dataset;
        let tokenizer = &validator.tokenizer;

        recalls(
            dataset,
            tokenizer,
            &mut encoder,
            (sizes, most_skipped),
            &self.together.world,
        )
    }
}
