//! Applies the next action of the current stage to a draft of the plan: status updates, objects to create
//! and objects to delete. [`stages`] decides which action that is. Pure.

mod backlog;
mod failed_attempt;

use std::time::Duration;

use cnclip_crds::{
    artifacts,
    training::{StageState, StageStatus},
};

use super::{
    failure, pending,
    stages::{self, StageAction},
};
use crate::{
    objects::AttemptObjects,
    observed::{ObservedJob, ObservedState, WorkerState},
    phase::Phase,
    recorded_status::RecordedStatus,
    resolve::RunRef,
    resolved_run::{Attempt, ResolvedRun, ResolvedStage, StatusReason},
    status::progress,
    time,
};

/// Requeues at once: the status must be stored before the next decision is derived from it, so that a
/// lost write repeats one action instead of losing a restart count.
const REQUEUE_NOW: Option<Duration> = Some(Duration::ZERO);

/// A plan under construction.
pub(super) struct PlanDraft {
    pub(super) status: RecordedStatus,
    pub(super) create: Option<AttemptObjects>,
    pub(super) remove: Vec<String>,
    /// Set by what is to be followed up at once.
    pub(super) requeue_after: Option<Duration>,
}

impl PlanDraft {
    /// Plans the next action of a run.
    pub(super) fn advance_run(
        &mut self,
        owner: &RunRef,
        resolved: &ResolvedRun,
        observed: &ObservedState,
    ) -> Phase {
        self.init_stages(resolved);
        if resolved.per_checkpoint {
            self.skip_oldest_waiting(observed);
        }

        let Some(index) = self.status.current_stage() else {
            return self.complete_run(resolved, observed);
        };

        let planner = StagePlanner {
            owner,
            resolved,
            observed,
            index,
            draft: self,
        };

        planner.advance_stage()
    }

    /// Every stage is present in the status from the first update on, so that clients can list what is to
    /// come. A series appends the stages of new checkpoints.
    fn init_stages(&mut self, resolved: &ResolvedRun) {
        for stage in resolved.stages.iter().skip(self.status.stages.len()) {
            self.status.stages.push(StageStatus {
                name: stage.name.clone(),
                ..StageStatus::default()
            });

            self.status.history.extend(stage.scored_checkpoint.clone());
        }
    }

    fn complete_run(&mut self, resolved: &ResolvedRun, observed: &ObservedState) -> Phase {
        if let Some(reason) = &resolved.pending_on {
            return if resolved.policy.suspend {
                let message = "no checkpoint is pending; set spec.suspend to false to resume";
                Phase::Suspended(message.to_owned())
            } else {
                Phase::Waiting(reason.clone())
            };
        }

        self.requeue_after = REQUEUE_NOW;
        self.status
            .finished_at
            .get_or_insert_with(|| time::to_rfc3339(observed.now));

        let last = resolved.stages.last().filter(|_| resolved.per_checkpoint);
        Phase::Complete(match last {
            Some(last) => format!("every checkpoint is scored; the last is {}", last.name),
            None => format!("all {} stages are done", resolved.stages.len()),
        })
    }
}

/// Plans one action of the current stage.
struct StagePlanner<'a> {
    owner: &'a RunRef,
    resolved: &'a ResolvedRun,
    observed: &'a ObservedState,
    index: usize,
    draft: &'a mut PlanDraft,
}

impl StagePlanner<'_> {
    fn advance_stage(mut self) -> Phase {
        let action = stages::next_action(
            self.resolved,
            &self.draft.status,
            self.stage_status(),
            self.observed,
        );

        // The deadline covers the whole run, and what is done in time stays done, even if it is noticed late.
        if action != StageAction::Succeed
            && let Some(failure) =
                failed_attempt::deadline_failure(self.resolved, &self.draft.status, self.observed)
        {
            return self.record_failure(&failure);
        }

        match action {
            StageAction::Wait(reason) => Phase::Waiting(reason),
            StageAction::Suspend => self.suspend(),
            StageAction::Start(attempt) => self.start_attempt(attempt),
            StageAction::Watch(job) => self.watch_attempt(&job),
            StageAction::Succeed => self.complete_stage(),
            StageAction::Fail(failure) => self.record_failure(&failure),
        }
    }

    fn stage(&self) -> &ResolvedStage {
        &self.resolved.stages[self.index]
    }

    fn stage_status(&self) -> &StageStatus {
        &self.draft.status.stages[self.index]
    }

    fn stage_status_mut(&mut self) -> &mut StageStatus {
        &mut self.draft.status.stages[self.index]
    }

    fn suspend(&mut self) -> Phase {
        // Before the pods are removed: this may be the last report of the attempt.
        self.record_report();
        // The name of the Job that is being deleted must not be reused: the resumed run starts the
        // attempt after it.
        self.adopt_attempt();
        let stage = self.stage_status_mut();
        // Not an active state, so that the deleted Job does not count as lost after the run is
        // resumed.
        stage.state = StageState::Suspended;
        stage.eta_seconds = None;
        let name = stage.name.clone();
        let step = stage.step;

        self.remove_attempts(|_, _| true);
        let now = self.observed.now;
        let terminating = self.observed.workers.iter().find(|pod| pod.is_alive(now));
        Phase::Suspended(terminating.map_or_else(
            || {
                format!(
                    "stage {name} is suspended after step {step}; set spec.suspend to false to resume"
                )
            },
            |pod| format!("pod {} is saving its state and terminating", pod.name),
        ))
    }

    fn start_attempt(&mut self, number: i32) -> Phase {
        let attempt = Attempt {
            number,
            halve_micro_batch: self.stage_status().micro_batch_halved,
        };

        let objects = AttemptObjects::for_attempt(
            self.owner,
            self.resolved,
            self.stage(),
            attempt,
            self.observed.drawn_secret.as_ref(),
        );
        self.draft.create = Some(objects);
        self.remove_old_attempts(number);

        let message = format!(
            "stage {}, attempt {number}: pods are being created",
            self.stage().name
        );

        Phase::Waiting(StatusReason::new("Starting", message))
    }

    /// Removes the attempts whose logs are no longer of use. The previous attempt is kept for
    /// `kubectl logs`: of this stage, and of a series also that of the previous checkpoint.
    fn remove_old_attempts(&mut self, attempt: i32) {
        let resolved = self.resolved;
        let index = self.index;
        let stage = resolved.stages[index].name.as_str();
        let previous = index
            .checked_sub(1)
            .map(|previous| &resolved.stages[previous]);

        self.remove_attempts(|name, old_attempt| {
            if name == stage {
                return old_attempt + 1 < attempt;
            }

            resolved.per_checkpoint && previous.is_some_and(|previous| previous.name != name)
        });
    }

    fn watch_attempt(&mut self, job: &ObservedJob) -> Phase {
        let workers = self.observed.workers_of(job);
        let pending_reason = pending::pending_reason(self.resolved, &job.stage, job, &workers);
        // The start deadline applies to all pods: with one of them pending, the others wait for it
        // in the rendezvous.
        if let Some(failure) = failure::start_deadline_failure(
            self.resolved.policy.start_deadline_seconds,
            job,
            pending_reason.as_ref(),
            self.observed.now,
        ) {
            return self.record_failure(&failure);
        }

        self.record_started(job);
        self.stage_status_mut().state = if pending_reason.is_some() {
            StageState::Starting
        } else {
            StageState::Running
        };

        self.record_report();
        if let Some(reason) = pending_reason {
            return Phase::Waiting(reason);
        }

        let running = workers
            .iter()
            .filter(|worker| worker.state == WorkerState::Running)
            .count();

        Phase::Running(format!(
            "stage {}, attempt {}, {running} of {} workers",
            job.stage, job.attempt, self.resolved.workers.replicas
        ))
    }

    fn record_report(&mut self) {
        let stage = self.stage();
        let report = self.observed.report.as_ref();
        // Right after a stage change the observed report is still that of the previous stage.
        let Some(report) = report.filter(|report| report.run.stage == stage.name) else {
            return;
        };

        let kept_checkpoints = stage.config.kept_checkpoints();
        let report = progress::keep_configured_tasks(report, &stage.config);
        progress::record_progress(
            &mut self.draft.status,
            self.index,
            kept_checkpoints,
            &report,
            self.observed,
        );
    }

    fn record_started(&mut self, job: &ObservedJob) {
        let stage = self.stage_status_mut();
        stage.attempt = stage.attempt.max(job.attempt);
        // A queue holds the Job back: deadlines count from its admission on.
        if !job.queued {
            let started = time::to_rfc3339(job.started);
            stage.started_at.get_or_insert_with(|| started.clone());
            self.draft.status.started_at.get_or_insert(started);
        }

        let status = &mut self.draft.status;
        if job.checkpoint.is_some() {
            status.checkpoint.clone_from(&job.checkpoint);
        }
    }

    /// Adopts an attempt whose Job was created but whose status update was lost.
    fn adopt_attempt(&mut self) {
        let job = self.observed.newest_job(&self.stage_status().name);
        let newest = job.map_or(0, |job| job.attempt);
        let stage = self.stage_status_mut();
        stage.attempt = stage.attempt.max(newest);
    }

    fn complete_stage(&mut self) -> Phase {
        self.draft.requeue_after = REQUEUE_NOW;
        self.record_report();
        // A short stage may end between two reconciliations, without having been seen running.
        if let Some(job) = self.observed.newest_job(&self.stage().name) {
            self.record_started(job);
        }

        let finished_at = time::to_rfc3339(self.observed.now);
        let stage = self.stage_status_mut();
        stage.state = StageState::Succeeded;
        stage.eta_seconds = None;
        stage.finished_at = Some(finished_at);

        // The checkpoints of a series are independent of each other, so each has the full retry budget.
        if self.resolved.per_checkpoint {
            failure::reset_retry_budget(&mut self.draft.status.restarts);
        }

        let stage = self.stage();
        let message = format!("stage {} is done", stage.name);
        let report = artifacts::join_uri(stage.config.artifacts_uri(), artifacts::REPORT_FILE);
        self.draft.status.report = Some(report);
        Phase::Waiting(StatusReason::new("StageSucceeded", message))
    }

    /// Removes the Jobs that match and are still there. Foreign Jobs belong to a deleted run of the same
    /// name: the garbage collector removes those.
    fn remove_attempts(&mut self, matches: impl Fn(&str, i32) -> bool) {
        let jobs = self.observed.jobs.iter();
        let removable =
            jobs.filter(|job| !job.deleting && !job.foreign && matches(&job.stage, job.attempt));

        let names = removable.map(|job| self.owner.attempt_name(&job.stage, job.attempt));
        self.draft.remove.extend(names);
    }
}
