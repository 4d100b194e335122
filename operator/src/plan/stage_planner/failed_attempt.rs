//! What follows from a failed attempt: a restart, a skipped checkpoint, or the end of the run. Pure.

use cnclip_crds::{
    common::LastFailure,
    training::{StageState, StageStatus},
};

use super::{REQUEUE_NOW, StagePlanner};
use crate::{
    observed::ObservedState,
    phase::Phase,
    plan::failure::{self, AttemptFailure, FailureClass},
    recorded_status::RecordedStatus,
    resolved_run::{ResolvedRun, StatusReason},
    time,
};

impl StagePlanner<'_> {
    /// Records the failure of an attempt. The only place that decides whether the run is retried.
    pub(super) fn record_failure(&mut self, failure: &AttemptFailure) -> Phase {
        self.draft.requeue_after = REQUEUE_NOW;
        // The termination message has the last step, and whether a checkpoint to evaluate is
        // missing.
        self.record_report();
        if self.resolved.per_checkpoint && self.is_checkpoint_missing() {
            return self.skip_checkpoint();
        }

        let retries = &self.resolved.policy.retries;
        let exhausted =
            failure::retries_exhausted(failure.class, &self.draft.status.restarts, retries);

        // Halving helps only where the trainer selects the micro-batch size; a fixed size is the user's.
        let halve =
            failure.class == FailureClass::OutOfMemory && self.stage().config.chooses_micro_batch();

        // Before the failure is recorded, which is recognized by the attempt number after a restart
        // of the operator.
        self.adopt_attempt();
        let stage = self.stage_status_mut();
        stage.eta_seconds = None;
        // Never reset: the later attempts of the stage have the same memory.
        stage.micro_batch_halved |= halve;
        stage.state = if exhausted.is_some() {
            StageState::Failed
        } else {
            StageState::Starting
        };

        let last_failure = to_last_failure(self.stage_status(), failure, self.observed);
        let stage = last_failure.stage.clone();
        let attempt = last_failure.attempt;
        self.draft.status.last_failure = Some(last_failure);
        if let Some(explanation) = exhausted {
            return self.fail_run(&stage, failure, &explanation);
        }

        failure::count_restart(&mut self.draft.status.restarts, failure.class);
        let message = format!(
            "attempt {attempt} of stage {stage} ended ({}): {}",
            failure.class.name(),
            failure.message
        );

        Phase::Waiting(StatusReason::new("RestartPending", message))
    }

    /// Whether the trainer reported that the checkpoint to evaluate does not exist.
    fn is_checkpoint_missing(&self) -> bool {
        let stage = &self.stage_status().name;
        let report = self.observed.report.as_ref();
        report
            .filter(|report| report.run.stage == *stage)
            .and_then(|report| report.evaluation.as_ref())
            .is_some_and(|evaluation| evaluation.missing)
    }

    /// A training prunes old checkpoints, possibly before they are evaluated: that is no failure.
    fn skip_checkpoint(&mut self) -> Phase {
        // Failures of this checkpoint must not use up the restarts of the next one.
        failure::reset_retry_budget(&mut self.draft.status.restarts);
        self.adopt_attempt();
        let finished_at = time::to_rfc3339(self.observed.now);
        let stage = self.stage_status_mut();
        stage.state = StageState::Skipped;
        stage.finished_at = Some(finished_at);
        let name = stage.name.clone();

        let entry = self.draft.status.history.get_mut(self.index);
        let explanation = entry.map_or_else(String::new, |entry| {
            let message = format!(
                "{} was deleted before it was scored: raise spec.checkpoint.keep of the training to score \
                 all, or spec.checkpoint.everySteps to make fewer",
                entry.checkpoint
            );

            entry.message.insert(message).clone()
        });

        Phase::Waiting(StatusReason::new(
            "CheckpointSkipped",
            format!("stage {name}: {explanation}"),
        ))
    }

    fn fail_run(&mut self, stage: &str, failure: &AttemptFailure, explanation: &str) -> Phase {
        self.draft.status.finished_at = Some(time::to_rfc3339(self.observed.now));
        // Pods that exceed a deadline are still alive; those of every other failure have ended.
        if matches!(
            failure.class,
            FailureClass::StartDeadline | FailureClass::Deadline
        ) {
            self.remove_attempts(|name, _| name == stage);
        }

        let message = format!(
            "stage {stage}: {} Not retried: {explanation}.",
            ensure_full_stop(&failure.message)
        );

        Phase::Failed(StatusReason::new(failure.class.name(), message))
    }
}

fn to_last_failure(
    stage: &StageStatus,
    failure: &AttemptFailure,
    observed: &ObservedState,
) -> LastFailure {
    LastFailure {
        class: failure.class.name().to_owned(),
        stage: stage.name.clone(),
        attempt: stage.attempt,
        // Without a report the step is unknown, not 0.
        step: stage.reported_at.is_some().then_some(stage.step),
        exit_code: failure.exit_code,
        node: failure.node.clone(),
        message: failure.message.clone(),
        at: time::to_rfc3339(observed.now),
    }
}

/// The deadline counts suspended time, but does not fail a suspended run: it may still be extended before
/// the run is resumed.
pub(super) fn deadline_failure(
    resolved: &ResolvedRun,
    recorded: &RecordedStatus,
    observed: &ObservedState,
) -> Option<AttemptFailure> {
    let limit = resolved
        .policy
        .deadline_seconds
        .filter(|_| !resolved.policy.suspend)?;
    let started = recorded.started_at.as_ref()?;
    (time::seconds_since(started, observed.now) > limit).then(|| {
        let message = format!("not done {limit} s after the first pod (spec.deadlineSeconds)");
        AttemptFailure::new(FailureClass::Deadline, message)
    })
}

fn ensure_full_stop(sentence: &str) -> String {
    let sentence = sentence.trim_end();
    let ends = sentence.ends_with(['.', '!', '?', '。']);
    if ends {
        sentence.to_owned()
    } else {
        format!("{sentence}.")
    }
}
