//! A run between two steps: the parts of one stage on one rank, and what the training loop does with them.

mod checkpoints;

use std::sync::Arc;
use std::time::Instant;

use cnclip_compute::collective::Collective;
use cnclip_crds::report::TrainerActivity;
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_data::loader::{DataLoader, NextBatch, SampleBatch};

use super::batch_planner::PlannedBatch;
use super::checkpoint_saver::CheckpointSaver;
use super::rank_sync::RankSync;
use super::resolved_training::ResolvedTraining;
use super::run_progress::RunProgress;
use super::stepper::{StepOutcome, Stepper};
use super::validator::Validator;
use super::watchdog::{RunPhase, Watchdog};
use crate::error::{Error, Result};
use crate::progress::Reporter;
use crate::stop::StopSignal;

/// One stage at work.
#[derive(Debug)]
pub(super) struct TrainingRun {
    plan: PlannedBatch,
    dataset_digest: String,
    stepper: Stepper,
    progress: RunProgress,
    rank_sync: RankSync,
    saver: CheckpointSaver,
    loader: DataLoader,
    validator: Option<Validator>,
    /// When the last snapshot was taken, or this attempt began.
    last_snapshot_at: Instant,
    /// The step of the last snapshot, or that which this attempt began with.
    last_snapshot_step: u64,
    watchdog: Arc<Watchdog>,
}

impl TrainingRun {
    /// Puts the parts together.
    ///
    /// # Errors
    /// If the environment sets the watchdog to something that is no number.
    pub(super) fn new(
        training: ResolvedTraining<'_>,
        plan: PlannedBatch,
        stepper: Stepper,
        progress: RunProgress,
        rank_sync: RankSync,
        saver: CheckpointSaver,
        loader: DataLoader,
    ) -> Result<Self> {
        let watchdog = Watchdog::new(rank_sync.communicator().waits_on_device())?;
        let last_snapshot_step = progress.step();

        Ok(Self {
            watchdog: Arc::new(watchdog),
            plan,
            dataset_digest: training.dataset_digest().to_owned(),
            stepper,
            progress,
            rank_sync,
            saver,
            loader,
            validator: training.validator,
            last_snapshot_at: Instant::now(),
            last_snapshot_step,
        })
    }

    /// What notices that this rank makes no progress.
    pub(super) fn watchdog(&self) -> Arc<Watchdog> {
        self.watchdog.clone()
    }

    fn config(&self) -> &TrainConfig {
        &self.plan.config
    }

    /// Steps completed, skipped ones among them.
    pub(super) fn completed_steps(&self) -> u64 {
        self.progress.step()
    }

    pub(super) fn is_done(&self) -> bool {
        self.progress.is_done()
    }

    pub(super) fn is_report_due(&self) -> bool {
        self.progress
            .is_due(self.config().report_every_steps as u64)
    }

    pub(super) fn is_validation_due(&self) -> bool {
        self.validator
            .as_ref()
            .is_some_and(|validator| self.progress.is_due(validator.every_steps()))
    }

    /// Whether an earlier attempt was stopped before the validation after this step.
    pub(super) fn owes_validation(&self) -> bool {
        self.progress.owes_validation()
    }

    /// Leaves the validation after this step to the attempt that goes on.
    pub(super) fn postpone_validation(&mut self) {
        self.progress.set_validation_owed(true);
    }

    /// Reports what is known before the first step.
    pub(super) fn report_start(&self, reporter: &Reporter) {
        let communicator = self.rank_sync.communicator();
        tracing::info!(
            rank = communicator.rank(),
            ranks = communicator.world_size(),
            parameters = self.stepper.parameter_count(),
            pairs_per_step = self.config().global_batch_size,
            steps_per_epoch = self.progress.steps_per_epoch(),
            dataset = self.dataset_digest,
            "ready to train"
        );

        reporter.update_report(|report| {
            report.activity = TrainerActivity::Training;
            self.progress.fill_start(report);
            report.memory = Some(self.plan.report);
        });
    }

    /// One optimizer step over the next global batch. One whose loss or gradient is not finite is
    /// skipped: its batch is used up, the model and the optimizer are as they were.
    ///
    /// # Errors
    /// If no batch can be made, more steps were skipped than may be, or a rank is lost.
    pub(super) fn take_step(&mut self, stop: &dyn StopSignal) -> Result<()> {
        // Waiting for the loader is included, or the rate would hide a data bottleneck.
        let start = Instant::now();
        let step = self.progress.step();
        self.watchdog.enter(RunPhase::Load, step);
        let batch = self.wait_for_batch(stop)?;
        self.watchdog.enter(RunPhase::Step, step);
        let communicator = self.rank_sync.communicator();
        let samples = batch.sample_ids.len() * communicator.world_size();

        communicator.set_step(step);
        let updates = self.progress.updates();
        match self
            .stepper
            .step(step, updates, &batch, &mut self.rank_sync)?
        {
            StepOutcome::Updated {
                losses,
                gradient_norm,
            } => {
                self.progress
                    .record_update(samples as u64, losses, gradient_norm, start.elapsed())
            }
            StepOutcome::Skipped { reason } => self.skip_step(&reason)?,
        }

        self.progress.complete_step(start.elapsed());
        Ok(())
    }

    /// # Errors
    /// If no batch can be made; if a stop was requested or a rank is lost meanwhile.
    fn wait_for_batch(&mut self, stop: &dyn StopSignal) -> Result<SampleBatch> {
        let step = self.progress.step();
        let communicator = self.rank_sync.communicator().clone();
        let interrupted = || stop.interrupts_waiting() || communicator.check_peers().is_err();

        match self.loader.next_batch_unless(&interrupted)? {
            NextBatch::Ready(batch) => Ok(batch),
            NextBatch::End => Err(Error::Bug(format!("the loader ended at step {step}"))),
            NextBatch::Interrupted => {
                communicator.check_peers()?;
                Err(Error::Interrupted { step })
            }
        }
    }

    fn skip_step(&mut self, reason: &str) -> Result<()> {
        let step = self.progress.step();
        let skipped = self.progress.record_skip();
        let most = self.config().max_skipped_steps;

        // Counted over all attempts: a run that diverges must not go on forever by being restarted.
        if skipped > most as u64 {
            return Err(Error::Data(format!(
                "Step {step} cannot be taken: {reason}. Steps without a finite loss and gradient so far: \
                 {skipped}; maxSkippedSteps allows {most}. Lower the learning rate, lengthen the warm-up, \
                 set maxGradientNorm, or begin with an earlier checkpoint."
            )));
        }

        if self.rank_sync.communicator().is_rank_zero() {
            tracing::warn!(step, skipped, "step skipped: {reason}");
        }

        Ok(())
    }

    /// Whether any rank was asked to stop; all stop after the same step.
    ///
    /// # Errors
    /// If a rank is lost, or all together skipped too many samples.
    pub(super) fn sync_stop(&mut self, stop: bool) -> Result<bool> {
        self.rank_sync.sync_stop(stop, &self.loader)
    }

    /// Reports how far the run is, and begins a new mean. Rank 0 reports the numbers, which are those
    /// of all ranks; the others how far they are, and for how long they waited.
    pub(super) fn report_progress(&mut self, reporter: &Reporter) {
        let meter = self.progress.take_meter();
        let waited = self.rank_sync.wait_time().as_secs_f64();
        let step = self.progress.step();

        reporter.update_report(|report| {
            report.step = step as i64;
            report.wait_seconds = waited;

            if self.rank_sync.communicator().is_rank_zero() {
                // The schedule counts from 0: the step completed last has the number below.
                let last_step = step.checked_sub(1);
                report.learning_rate = last_step.map(|step| self.stepper.learning_rate(step));
                report.logit_scale = Some(self.stepper.log_logit_scale());
                self.progress
                    .fill_report(meter, self.skipped_samples(), report);
            }
        });

        self.progress.record_report(&reporter.current_report());
    }

    /// Samples that this attempt could not use.
    fn skipped_samples(&self) -> u64 {
        self.loader.skip_counts().total_skipped()
    }

    /// Measures recall on the held-out samples: that of the average, where weights are averaged.
    ///
    /// # Errors
    /// If the data set cannot be read, or a rank is lost.
    pub(super) fn run_validation(
        &mut self,
        reporter: &Reporter,
        stop: &dyn StopSignal,
    ) -> Result<()> {
        let Some(validator) = &self.validator else {
            return Ok(());
        };

        self.watchdog
            .enter(RunPhase::Validate, self.progress.step());
        // Until it is made, a state that is saved owes it.
        self.progress.set_validation_owed(true);

        reporter.update_report(|report| report.activity = TrainerActivity::Validating);
        let communicator = self.rank_sync.communicator();
        let step = self.progress.step();
        let check = || match stop.interrupts_waiting() {
            true => Err(Error::Interrupted { step }),
            false => Ok(communicator.check_peers()?),
        };

        let recalls = validator.measure_recalls(&mut self.stepper, communicator, &check)?;
        reporter.update_report(|report| report.activity = TrainerActivity::Training);
        self.progress.set_validation_owed(false);

        // Rank 0 alone searches, and has recalls.
        let Some(recalls) = recalls else {
            return Ok(());
        };

        self.progress.record_validation(recalls);
        reporter.update_report(|report| self.progress.fill_validation(report));
        self.progress.record_report(&reporter.current_report());
        Ok(())
    }

    /// Waits for the last checkpoint and names the one that the stage ends with.
    ///
    /// # Errors
    /// If that cannot be written, or a rank is lost.
    pub(super) fn finish_run(mut self, reporter: &Reporter) -> Result<()> {
        self.finish_checkpoint(reporter)?;
        self.saver.finish_stage(self.config())?;

        // A last barrier: success of one rank implies success of all, so exit code 0 of any worker
        // means that the stage's end is written.
        self.rank_sync.communicator().barrier()?;
        reporter.update_report(|report| {
            report.activity = TrainerActivity::Done;
            report.eta_seconds = Some(0);
        });

        Ok(())
    }
}
