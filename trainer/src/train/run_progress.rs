//! How far a run is: steps, samples, losses and recalls, and what a report says of them. Computes no
//! gradient and writes nothing.

use std::time::Duration;

use cnclip_crds::report::{ProgressReport, ValidationReport};
use cnclip_crds::tasks::RetrievalRecalls;

use super::meter::{Meter, StepLosses};
use super::resume::ResumedState;
use crate::checkpoint::{Seeding, TrainingState};
use crate::progress::history::TrainingHistory;

/// Counters and curves of one stage, over all its attempts.
#[derive(Debug, Default)]
pub(super) struct RunProgress {
    total_steps: u64,
    steps_per_epoch: u64,
    /// Steps completed, skipped ones among them.
    step: u64,
    /// Steps without a finite loss and gradient.
    steps_skipped: u64,
    samples_seen: u64,
    /// Samples that earlier attempts could not use.
    skipped_before: u64,
    seeding: Seeding,
    /// A validation that was due after this step and not made.
    validation_owed: bool,
    /// Sums since the last report.
    meter: Meter,
    train_seconds: f64,
    gradient_norm: Option<f64>,
    validation: Option<ValidationReport>,
    best: Option<ValidationReport>,
    history: TrainingHistory,
}

impl RunProgress {
    /// Starts where a checkpoint ended, or at zero.
    pub(super) fn new(total_steps: u64, steps_per_epoch: u64, resumed: ResumedState) -> Self {
        let ResumedState {
            state,
            history,
            best,
        } = resumed;

        Self {
            total_steps,
            steps_per_epoch,
            step: state.step,
            steps_skipped: state.steps_skipped,
            samples_seen: state.samples_seen,
            skipped_before: state.samples_skipped,
            seeding: state.seeding,
            validation_owed: state.validation_owed,
            history,
            best,
            ..Self::default()
        }
    }

    /// Steps completed, skipped ones among them.
    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// Steps that changed the weights.
    pub(super) fn updates(&self) -> u64 {
        self.step - self.steps_skipped
    }

    /// Steps in one pass over the data set.
    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    pub(super) fn is_done(&self) -> bool {
        self.step >= self.total_steps
    }

    /// Whether something that happens every so many steps is due; after the last step everything is.
    pub(super) fn is_due(&self, every_steps: u64) -> bool {
        self.is_done() || self.step.is_multiple_of(every_steps.max(1))
    }

    /// The curves so far.
    pub(super) fn history(&self) -> &TrainingHistory {
        &self.history
    }

    /// Counts a step that changed the weights.
    pub(super) fn record_update(
        &mut self,
        samples: u64,
        losses: StepLosses,
        gradient_norm: f64,
        elapsed: Duration,
    ) {
        self.gradient_norm = Some(gradient_norm);
        self.samples_seen += samples;
        self.meter.add_step(samples, losses, elapsed);
    }

    /// Counts a step that changed nothing; gives how many there were.
    pub(super) fn record_skip(&mut self) -> u64 {
        self.steps_skipped += 1;
        self.steps_skipped
    }

    /// Counts a step as completed, whatever became of it.
    pub(super) fn complete_step(&mut self, elapsed: Duration) {
        // A skipped step counts too: it used up its batch and its place in the learning-rate
        // schedule, and a resumed run must continue with the batch after it.
        self.step += 1;
        self.train_seconds += elapsed.as_secs_f64();
    }

    /// Whether a validation was due after the last step, and a stop came before it.
    pub(super) fn owes_validation(&self) -> bool {
        self.validation_owed
    }

    /// Notes that a validation is due, or that it was made.
    pub(super) fn set_validation_owed(&mut self, owed: bool) {
        self.validation_owed = owed;
    }

    /// Takes in recalls measured after the last step, and keeps the best.
    pub(super) fn record_validation(&mut self, recalls: RetrievalRecalls) {
        let validation = ValidationReport {
            step: self.step as i64,
            recalls,
        };

        self.validation = Some(validation);
        self.best = Some(validation.best_of(self.best));
    }

    /// The validation after the last step, if there was one.
    pub(super) fn current_validation(&self) -> Option<ValidationReport> {
        let step = self.step as i64;
        self.validation.filter(|validation| validation.step == step)
    }

    /// Adds what was reported to the curves.
    pub(super) fn record_report(&mut self, report: &ProgressReport) {
        self.history.push(report);
    }

    /// What a checkpoint keeps of it.
    pub(super) fn to_state(&self, seed: u64, dataset: &str, skipped: u64) -> TrainingState {
        TrainingState {
            step: self.step,
            steps_skipped: self.steps_skipped,
            seed,
            dataset: dataset.to_owned(),
            samples_seen: self.samples_seen,
            samples_skipped: self.total_skipped(skipped),
            seeding: self.seeding,
            validation_owed: self.validation_owed,
        }
    }

    /// What is known before the first step.
    pub(super) fn fill_start(&self, report: &mut ProgressReport) {
        report.step = self.step as i64;
        report.steps = self.total_steps as i64;
        report.samples_seen = self.samples_seen as i64;
        report.steps_skipped = self.steps_skipped as i64;
        report.best = self.best;
        // What an earlier attempt measured last, until this one has something of its own.
        if let Some(last) = self.history.points().last() {
            report.loss = last.loss;
            report.learning_rate = last.learning_rate;
            report.logit_scale = last.logit_scale;
        }
    }

    /// What was measured by validation.
    pub(super) fn fill_validation(&self, report: &mut ProgressReport) {
        report.validation = self.validation;
        report.best = self.best;
    }

    /// The sums since the last report, which begin anew.
    pub(super) fn take_meter(&mut self) -> Meter {
        std::mem::take(&mut self.meter)
    }

    /// What rank 0 reports: the numbers of all ranks. `skipped` counts samples of this attempt.
    pub(super) fn fill_report(&self, meter: Meter, skipped: u64, report: &mut ProgressReport) {
        let remaining = self.total_steps - self.step;
        report.epoch = self.step as f64 / self.steps_per_epoch.max(1) as f64;
        // A report without a step since the last one keeps what was known.
        report.loss = meter.mean_loss().or(report.loss);
        report.distillation_loss = meter.mean_distillation_loss().or(report.distillation_loss);
        report.gradient_norm = self.gradient_norm.or(report.gradient_norm);
        report.samples_per_second = meter.samples_per_second().or(report.samples_per_second);
        report.eta_seconds = meter.estimate_seconds(remaining).or(report.eta_seconds);

        report.samples_seen = self.samples_seen as i64;
        report.samples_skipped = self.total_skipped(skipped) as i64;
        report.steps_skipped = self.steps_skipped as i64;
        report.train_seconds = self.train_seconds;
    }

    fn total_skipped(&self, skipped: u64) -> u64 {
        self.skipped_before + skipped
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::tasks::RecallAtK;

    use super::*;

    fn recalls(mean_recall: f64) -> RetrievalRecalls {
        let recall = RecallAtK {
            mean_recall,
            ..RecallAtK::default()
        };

        RetrievalRecalls {
            text_to_image: recall,
            image_to_text: recall,
        }
    }

    #[test]
    fn a_later_validation_replaces_the_best_unless_it_is_worse() {
        let mut progress = RunProgress::new(9, 3, ResumedState::fresh());
        for (mean_recall, best_step) in [(40.0, 1), (39.0, 1), (40.0, 3)] {
            progress.complete_step(Duration::ZERO);
            progress.record_validation(recalls(mean_recall));
            assert_eq!(progress.best.unwrap().step, best_step);
            assert_eq!(progress.current_validation(), progress.validation);
        }

        progress.complete_step(Duration::ZERO);
        assert_eq!(progress.current_validation(), None, "of an earlier step");
    }

    #[test]
    fn everything_is_due_after_the_last_step() {
        let mut progress = RunProgress::new(3, 3, ResumedState::fresh());
        progress.complete_step(Duration::ZERO);
        assert!(!progress.is_due(2) && progress.is_due(1) && progress.is_due(0));
        progress.complete_step(Duration::ZERO);
        progress.complete_step(Duration::ZERO);
        assert!(progress.is_done() && progress.is_due(2));
    }
}
