//! A run between two steps: everything it holds, and what can be done with it.

mod save;

use std::sync::Arc;
use std::time::Instant;

use cnclip_crds::report::{Activity, Recalls, Report, Validation};
use cnclip_crds::run_config::TrainConfig;
use cnclip_crds::stage::Duplicates;

use super::ending;
use super::meter::Meter;
use crate::accumulate::Accumulator;
use crate::average::Average;
use crate::checkpoint::{State, Writer};
use crate::data::loader::{self, Loader};
use crate::data::shard::Dataset;
use crate::data::tokenize::Tokenizer;
use crate::error::{Error, Result};
use crate::evaluate::{Sizes, recalls};
use crate::loss::Score;
use crate::model::Texts;
use crate::model::clip::{Batch, Clip};
use crate::ops::dropout::Dropout;
use crate::ops::pixels::Pixels;
use crate::optimizer::AdamW;
use crate::params::Params;
use crate::report::Reporter;
use crate::report::history::History;
use crate::schedule::Schedule;
use crate::store::Store;

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
        let State { step, steps_skipped, samples_seen, samples_skipped: skipped_before, .. } =
            state;
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
    pub(super) progress: Progress,
    /// The digest of the data set.
    pub(super) dataset: String,
    pub(super) clip: Clip,
    pub(super) params: Params,
    pub(super) adamw: AdamW,
    /// The average of the weights, if it was asked for.
    pub(super) average: Option<Average>,
    /// What `params.state` was before the step.
    pub(super) statistics: Vec<f32>,
    pub(super) accumulator: Accumulator,
    pub(super) schedule: Schedule,
    pub(super) loader: Loader,
    pub(super) validator: Option<Validator>,
    pub(super) writer: Writer,
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
        self.validator.as_ref().is_some_and(|validator| self.due(validator.every_steps))
    }

    pub(super) fn checkpoint_due(&self) -> bool {
        self.due(self.config.checkpoint.every_steps as u64)
    }

    /// One optimizer step over the next global batch. One whose loss or gradient is not finite is
    /// skipped: the batch is behind us, the model and the optimizer are as they were.
    ///
    /// # Errors
    /// If no batch can be made, or more steps were skipped than may be.
    pub(super) fn take_step(&mut self) -> Result<()> {
        let start = Instant::now();
        let step = self.progress.step;
        let batch = self.loader.next_batch()?;
        let batch = batch.ok_or_else(|| Error::Bug(format!("the loader ended at step {step}")))?;
        self.statistics.copy_from_slice(&self.params.state);
        if self.config.duplicates == Duplicates::Positives {
            self.accumulator.loss.targets.match_equal(&batch.fingerprints);
        }
        let score = self.differentiate(step, &batch);
        match self.update(step, score.loss) {
            Ok(()) => self.count(batch.pairs.len() as u64, score.loss, start),
            Err(reason) => self.skip(&reason)?,
        }
        self.progress.step += 1;
        self.progress.train_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Changes the weights by their gradients, or nothing at all.
    ///
    /// # Errors
    /// What is not finite.
    fn update(&mut self, step: u64, loss: f64) -> Result<(), String> {
        if !loss.is_finite() {
            return Err(format!("the loss is {loss}"));
        }
        // Moments know only of steps that were not skipped.
        let taken = step - self.progress.steps_skipped;
        let norm = self.adamw.step(&mut self.params, taken, self.schedule.rate(step));
        self.progress.gradient_norm = Some(norm.map_err(|error| error.to_string())?);
        self.clip.clamp_logit_scale(&mut self.params);
        if let Some(average) = &mut self.average {
            average.add(&self.params, taken);
        }
        Ok(())
    }

    fn skip(&mut self, reason: &str) -> Result<()> {
        self.params.state.copy_from_slice(&self.statistics);
        self.progress.steps_skipped += 1;
        let (skipped, most) = (self.progress.steps_skipped, self.config.max_skipped_steps);
        let step = self.progress.step;
        if skipped > most as u64 {
            return Err(Error::Data(format!(
                "Step {step} cannot be taken: {reason}. Steps without a finite loss and gradient so far: \
                 {skipped}; maxSkippedSteps allows {most}. Lower the learning rate, lengthen the warm-up, \
                 set maxGradientNorm, or begin with an earlier checkpoint."
            )));
        }
        tracing::warn!(step, skipped, "step skipped: {reason}");
        Ok(())
    }

    /// Forward, loss, backward: the gradients of one global batch.
    fn differentiate(&mut self, step: u64, batch: &loader::Batch) -> Score {
        let texts = Texts { ids: &batch.ids, offsets: &batch.offsets };
        let batch = Batch { pixels: Pixels::Bytes(&batch.pixels), texts };
        let given = (batch, Dropout::new(self.config.seed, step, 0));
        let Self { accumulator, clip, params, .. } = self;
        params.clear_gradients();
        let score = accumulator.forward((clip, params), given);
        clip.add_logit_scale_gradient(params, score.logit_scale_gradient as f32);
        accumulator.backward((clip, params), given);
        score
    }

    fn count(&mut self, pairs: u64, loss: f64, start: Instant) {
        self.progress.samples_seen += pairs;
        self.progress.meter.add(pairs, loss, start.elapsed());
    }

    /// Tells what is known before the first step.
    pub(super) fn tell_start(&self, reporter: &Reporter) {
        tracing::info!(
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
        });
    }

    /// Tells how far the run is, and begins a new mean.
    pub(super) fn report(&mut self, reporter: &Reporter) {
        let meter = std::mem::take(&mut self.progress.meter);
        reporter.update(|report| self.describe(meter, report));
        self.progress.history.push(&reporter.current());
    }

    fn describe(&self, meter: Meter, report: &mut Report) {
        let progress = &self.progress;
        report.activity = Activity::Training;
        report.step = progress.step as i64;
        report.epoch = progress.step as f64 / progress.steps_per_epoch.max(1) as f64;
        report.loss = meter.mean_loss().or(report.loss);
        report.learning_rate = progress.step.checked_sub(1).map(|step| self.schedule.rate(step));
        report.logit_scale = Some(f64::from(self.clip.logit_scale(&self.params)).ln());
        report.gradient_norm = progress.gradient_norm.or(report.gradient_norm);
        report.samples_per_second = meter.pairs_per_second().or(report.samples_per_second);
        report.eta_seconds =
            meter.seconds_for(progress.steps - progress.step).or(report.eta_seconds);
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
        self.swap_average();
        let recalls = self.recalls(reporter);
        self.swap_average();
        let Some(recalls) = recalls? else { return Ok(()) };
        let found = Validation { step: self.progress.step as i64, recalls };
        self.progress.validation = Some(found);
        self.progress.best = ending::better(self.progress.best, found);
        reporter.update(|report| {
            report.activity = Activity::Training;
            report.validation = Some(found);
            report.best = self.progress.best;
        });
        self.progress.history.push(&reporter.current());
        Ok(())
    }

    /// Recall of the weights that are in place.
    fn recalls(&mut self, reporter: &Reporter) -> Result<Option<Recalls>> {
        let Some(validator) = &self.validator else { return Ok(None) };
        reporter.update(|report| report.activity = Activity::Validating);
        let sizes = Sizes {
            side: self.config.model.image.resolution as usize,
            context_length: self.config.context_length as usize,
            batch: self.config.micro_batch_size.unwrap_or(self.config.global_batch_size) as usize,
        };
        let most_skipped = self.config.max_skipped_percent / 100.0;
        let mut encoder = (&mut self.clip, &mut self.params);
        let (dataset, tokenizer) = (&validator.dataset, &validator.tokenizer);
        recalls(dataset, tokenizer, &mut encoder, (sizes, most_skipped)).map(Some)
    }
}
