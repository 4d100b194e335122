//! A plan in the making: what each step of a stage writes on record, lets come and lets go. Which step
//! it is, [`stages`] says.

use std::time::Duration;

use cnclip_crds::{
    artifacts,
    common::LastFailure,
    training::{StageState, StageStatus},
};

use super::{
    Phase,
    failure::{self, AttemptFailure, FailureClass},
    pending,
    stages::{self, StageAction},
};
use crate::{
    objects::AttemptObjects,
    observed::{ObservedJob, ObservedState, WorkerState},
    recorded_status::RecordedStatus,
    resolved_run::{Attempt, ResolvedRun, StatusReason},
    run::RunRef,
    status::progress,
    time,
};

/// A plan while it is being made.
pub(super) struct PlanBuilder {
    pub(super) status: RecordedStatus,
    pub(super) create: Option<AttemptObjects>,
    pub(super) remove: Vec<String>,
    pub(super) requeue_after: Option<Duration>,
}

/// The record must be written before the next decision is taken from it.
const REQUEUE_NOW: Option<Duration> = Some(Duration::ZERO);

impl PlanBuilder {
    /// One step on.
    pub(super) fn advance_run(
        &mut self,
        owner: &RunRef,
        work: &ResolvedRun,
        seen: &ObservedState,
    ) -> Phase {
        self.init_stages(work);
        let Some(index) = self.status.current_stage() else {
            return self.complete_run(work, seen);
        };

        if let Some(failure) = deadline_failure(work, &self.status, seen) {
            return self.record_failure(owner, work, index, &failure, seen);
        }

        let stage = self.status.stages[index].clone();
        match stages::next_action(work, &self.status, &stage, seen) {
            StageAction::Wait(cause) => Phase::Waiting(cause),
            StageAction::Suspend => self.suspend(owner, work, index, seen),
            StageAction::Start(attempt) => self.start_attempt(owner, work, index, attempt, seen),
            StageAction::Watch(job) => self.watch_attempt(owner, work, index, &job, seen),
            StageAction::Succeed => self.complete_stage(work, index, seen),
            StageAction::Fail(failure) => self.record_failure(owner, work, index, &failure, seen),
        }
    }

    /// Every stage is on record from the first write on.
    fn init_stages(&mut self, work: &ResolvedRun) {
        for (index, stage) in work.stages.iter().enumerate() {
            if self.status.stages.get(index).is_none() {
                let name = stage.name.clone();
                self.status.stages.push(StageStatus {
                    name,
                    ..StageStatus::default()
                });

                self.status.history.extend(stage.scored_checkpoint.clone());
            }
        }
    }

    fn complete_run(&mut self, work: &ResolvedRun, seen: &ObservedState) -> Phase {
        if let Some(cause) = &work.pending_on {
            return if work.suspend {
                let message = "nothing is to be scored; set spec.suspend to false to go on";
                Phase::Suspended(message.to_owned())
            } else {
                Phase::Waiting(cause.clone())
            };
        }

        self.requeue_after = REQUEUE_NOW;
        self.status
            .finished_at
            .get_or_insert_with(|| time::to_rfc3339(seen.now));

        Phase::Complete(match work.stages.last().filter(|_| work.per_checkpoint) {
            Some(last) => format!("every checkpoint is scored; the last is {}", last.name),
            None => format!("all {} stages are done", work.stages.len()),
        })
    }

    fn suspend(
        &mut self,
        owner: &RunRef,
        work: &ResolvedRun,
        index: usize,
        seen: &ObservedState,
    ) -> Phase {
        self.record_report(work, index, seen);
        let stage = &mut self.status.stages[index];
        stage.state = StageState::Suspended;
        stage.eta_seconds = None;
        adopt_attempt(stage, seen);
        let name = stage.name.clone();
        let step = stage.step;

        self.remove_attempts(owner, seen, |_, _| true);
        let living = seen.workers.iter().find(|worker| worker.is_alive(seen.now));
        Phase::Suspended(living.map_or_else(
            || format!("stage {name} rests after step {step}; set spec.suspend to false to go on"),
            |worker| format!("pod {} saves its state and ends", worker.name),
        ))
    }

    fn start_attempt(
        &mut self,
        owner: &RunRef,
        work: &ResolvedRun,
        index: usize,
        attempt: i32,
        seen: &ObservedState,
    ) -> Phase {
        let stage = &work.stages[index];
        let halved = self.status.stages[index].micro_batch_halved;
        let made = Attempt {
            number: attempt,
            halve_micro_batch: halved,
        };

        self.create = Some(AttemptObjects::for_attempt(owner, work, stage, made));
        // The last attempt stays for its logs; nobody reads those of the ones before.
        let last = work
            .per_checkpoint
            .then(|| index.checked_sub(1))
            .flatten()
            .and_then(|i| work.stages.get(i));

        let is_last = |name: &str| last.is_none_or(|last| name == last.name);
        self.remove_attempts(owner, seen, |name, old| {
            if name == stage.name {
                old + 1 < attempt
            } else {
                work.per_checkpoint && !is_last(name)
            }
        });

        let message = format!(
            "stage {}, attempt {attempt}: its pods are being made",
            stage.name
        );

        Phase::Waiting(StatusReason::new("Starting", message))
    }

    fn watch_attempt(
        &mut self,
        owner: &RunRef,
        work: &ResolvedRun,
        index: usize,
        job: &ObservedJob,
        seen: &ObservedState,
    ) -> Phase {
        let workers = seen.workers_of(job);
        let obstacle = pending::pending_reason(work, &job.stage, job, &workers);
        if let Some(failure) = failure::start_deadline_failure(
            work.start_deadline_seconds,
            job,
            obstacle.as_ref(),
            seen.now,
        ) {
            return self.record_failure(owner, work, index, &failure, seen);
        }

        self.record_started(index, job);
        let stage = &mut self.status.stages[index];
        stage.state = if obstacle.is_some() {
            StageState::Starting
        } else {
            StageState::Running
        };

        self.record_report(work, index, seen);
        match obstacle {
            Some(cause) => Phase::Waiting(cause),
            None => Phase::Running(format!(
                "stage {}, attempt {}, {} of {} workers",
                job.stage,
                job.attempt,
                workers
                    .iter()
                    .filter(|worker| worker.state == WorkerState::Running)
                    .count(),
                work.workers.replicas
            )),
        }
    }

    fn record_report(&mut self, work: &ResolvedRun, index: usize, seen: &ObservedState) {
        let stage = self.status.stages[index].name.clone();
        if let Some(report) = seen
            .report
            .as_ref()
            .filter(|report| report.run.stage == stage)
        {
            let keeps = work.stages[index].config.kept_checkpoints();
            progress::record_progress(&mut self.status, (index, keeps), report, seen);
        }
    }

    fn record_started(&mut self, index: usize, job: &ObservedJob) {
        let started = time::to_rfc3339(job.started);
        let stage = &mut self.status.stages[index];
        stage.attempt = stage.attempt.max(job.attempt);
        stage.started_at.get_or_insert_with(|| started.clone());
        self.status.started_at.get_or_insert(started);

        if job.checkpoint.is_some() {
            self.status.checkpoint.clone_from(&job.checkpoint);
        }
    }

    fn complete_stage(&mut self, work: &ResolvedRun, index: usize, seen: &ObservedState) -> Phase {
        self.requeue_after = REQUEUE_NOW;
        self.record_report(work, index, seen);
        if let Some(job) = seen.newest_job(&self.status.stages[index].name) {
            self.record_started(index, job);
        }

        let stage = &mut self.status.stages[index];
        stage.state = StageState::Succeeded;
        stage.eta_seconds = None;
        stage.finished_at = Some(time::to_rfc3339(seen.now));

        if work.per_checkpoint {
            failure::reset_retry_budget(&mut self.status.restarts);
        }

        let stage = &work.stages[index];
        self.status.report = Some(artifacts::join_uri(
            stage.config.artifacts_uri(),
            artifacts::REPORT_FILE,
        ));
        Phase::Waiting(StatusReason::new(
            "StageSucceeded",
            format!("stage {} is done", stage.name),
        ))
    }

    /// Puts a failure on record; whether it was the last is decided here and nowhere else.
    fn record_failure(
        &mut self,
        owner: &RunRef,
        work: &ResolvedRun,
        index: usize,
        failure: &AttemptFailure,
        seen: &ObservedState,
    ) -> Phase {
        self.requeue_after = REQUEUE_NOW;
        self.record_report(work, index, seen);
        if work.per_checkpoint && is_checkpoint_missing(&self.status.stages[index], seen) {
            return self.skip_checkpoint(index, seen);
        }

        let given_up =
            failure::retries_exhausted(failure.class, &self.status.restarts, &work.retries);
        let stage = &mut self.status.stages[index];
        adopt_attempt(stage, seen);
        stage.eta_seconds = None;
        stage.state = if given_up.is_some() {
            StageState::Failed
        } else {
            StageState::Starting
        };

        let chosen = work.stages[index].config.chooses_micro_batch();
        stage.micro_batch_halved |= failure.class == FailureClass::OutOfMemory && chosen;
        self.status.last_failure = Some(to_last_failure(stage, failure, seen));
        let name = stage.name.clone();
        let attempt = stage.attempt;

        if let Some(why) = given_up {
            return self.fail_run(owner, &name, failure, &why, seen);
        }

        failure::count_restart(&mut self.status.restarts, failure.class);
        let message = format!(
            "attempt {attempt} of stage {name} ended ({}): {}",
            failure.class.name(),
            failure.message
        );

        Phase::Waiting(StatusReason::new("RestartPending", message))
    }

    /// A training deletes old checkpoints, and one that is gone can't be scored.
    fn skip_checkpoint(&mut self, index: usize, seen: &ObservedState) -> Phase {
        failure::reset_retry_budget(&mut self.status.restarts);
        let stage = &mut self.status.stages[index];
        adopt_attempt(stage, seen);
        stage.state = StageState::Skipped;
        stage.finished_at = Some(time::to_rfc3339(seen.now));
        let name = stage.name.clone();
        let entry = self.status.history.get_mut(index);
        let gone = entry.map_or_else(String::new, |entry| {
            let message = format!(
                "{} was deleted before it was scored: raise spec.checkpoint.keep of the training to score \
                 all, or spec.checkpoint.everySteps to make fewer",
                entry.checkpoint
            );

            entry.message.insert(message).clone()
        });

        Phase::Waiting(StatusReason::new(
            "CheckpointSkipped",
            format!("stage {name}: {gone}"),
        ))
    }

    fn fail_run(
        &mut self,
        owner: &RunRef,
        stage: &str,
        failure: &AttemptFailure,
        why: &str,
        seen: &ObservedState,
    ) -> Phase {
        self.status.finished_at = Some(time::to_rfc3339(seen.now));
        if matches!(
            failure.class,
            FailureClass::StartDeadline | FailureClass::Deadline
        ) {
            self.remove_attempts(owner, seen, |name, _| name == stage);
        }

        let message = format!(
            "stage {stage}: {} Not tried again: {why}.",
            ensure_full_stop(&failure.message)
        );

        Phase::Failed(StatusReason::new(failure.class.name(), message))
    }

    fn remove_attempts(
        &mut self,
        owner: &RunRef,
        seen: &ObservedState,
        which: impl Fn(&str, i32) -> bool,
    ) {
        let live = seen
            .jobs
            .iter()
            .filter(|job| !job.deleting && !job.foreign && which(&job.stage, job.attempt));

        self.remove
            .extend(live.map(|job| owner.attempt_name(&job.stage, job.attempt)));
    }
}

/// An attempt that was made but whose record was lost is still an attempt.
fn adopt_attempt(stage: &mut StageStatus, seen: &ObservedState) {
    let newest = seen.newest_job(&stage.name).map_or(0, |job| job.attempt);
    stage.attempt = stage.attempt.max(newest);
}

/// Whether its trainer said that what it should score is not there.
fn is_checkpoint_missing(stage: &StageStatus, seen: &ObservedState) -> bool {
    let report = seen
        .report
        .as_ref()
        .filter(|report| report.run.stage == stage.name);

    report
        .and_then(|report| report.evaluation.as_ref())
        .is_some_and(|found| found.missing)
}

fn to_last_failure(
    stage: &StageStatus,
    failure: &AttemptFailure,
    seen: &ObservedState,
) -> LastFailure {
    LastFailure {
        class: failure.class.name().to_owned(),
        stage: stage.name.clone(),
        attempt: stage.attempt,
        step: stage.reported_at.is_some().then_some(stage.step),
        exit_code: failure.exit_code,
        node: failure.node.clone(),
        message: failure.message.clone(),
        at: time::to_rfc3339(seen.now),
    }
}

/// Time counts while the run is held back, but does not end it then.
fn deadline_failure(
    work: &ResolvedRun,
    ledger: &RecordedStatus,
    seen: &ObservedState,
) -> Option<AttemptFailure> {
    let limit = work.deadline_seconds.filter(|_| !work.suspend)?;
    let started = ledger.started_at.as_ref()?;
    (time::seconds_since(started, seen.now) > limit).then(|| {
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
