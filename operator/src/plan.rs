//! Decides. From the manifest as work, what is on record and what was seen, says which objects should
//! come and go, how the run stands, and when to look again.
//!
//! No client, no clock, no `Result`. A manifest that cannot work is data; it is no error of the operator.

use std::time::Duration;

use crate::{
    objects::AttemptObjects,
    observed::ObservedState,
    recorded_status::RecordedStatus,
    resolved_run::{ResolvedRun, StatusReason},
    run::{RunRef, TrainerDefaults},
    status::{conditions, events},
    time,
};

mod builder;
pub mod failure;
mod gate;
pub mod pending;
pub mod stages;
pub mod validate;

use builder::PlanBuilder;

/// What should be done about one run.
#[derive(Clone, Debug)]
pub struct ReconcilePlan {
    /// What will be on record.
    pub status: RecordedStatus,
    /// Objects of the attempt that should begin.
    pub create: Option<AttemptObjects>,
    /// Names of the objects of attempts that should go.
    pub remove: Vec<String>,
    /// The run's time is over: its own object should go.
    pub delete_run: bool,
    /// What people should hear of.
    pub events: Vec<events::RunEvent>,
    /// When to look again even if nothing changes.
    pub requeue_after: Option<Duration>,
}

/// How a run stands, in one word and a sentence; becomes the conditions.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// The manifest can never work.
    Rejected(StatusReason),
    /// No pods are at work, for this reason.
    Waiting(StatusReason),
    /// Pods are at work.
    Running(String),
    /// The user holds it back.
    Suspended(String),
    /// Everything is done.
    Complete(String),
    /// It is given up.
    Failed(StatusReason),
}

/// What should be done about a run.
pub fn plan_run(
    owner: &RunRef,
    work: Result<ResolvedRun, StatusReason>,
    before: &RecordedStatus,
    seen: &ObservedState,
    defaults: &TrainerDefaults,
) -> ReconcilePlan {
    let interval = Duration::from_secs(defaults.progress_interval_seconds);
    let mut draft = PlanBuilder {
        status: before.clone(),
        create: None,
        remove: Vec::new(),
        requeue_after: Some(interval),
    };

    let gate = work.as_ref().ok().and_then(|work| work.gate.as_ref());
    let standing = match &work {
        _ if before.has_ended() => {
            return plan_ended_run(owner, work.as_ref().ok(), before, seen, interval);
        }
        Err(cause) => {
            draft.requeue_after = None;
            Phase::Rejected(cause.clone())
        }
        Ok(work) => draft.advance_run(owner, work, seen),
    };

    let mut ledger = draft.status;
    conditions::write_conditions(&mut ledger, &standing, owner.generation, seen);
    gate::evaluate_gate(&mut ledger, before, gate, owner.generation, seen);
    let notices = events::diff_statuses(before, &ledger);

    ReconcilePlan {
        events: notices,
        status: ledger,
        create: draft.create,
        remove: draft.remove,
        delete_run: false,
        requeue_after: draft.requeue_after,
    }
}

/// An ended run is never begun again, also when its Jobs are gone. A gate may still wait for its baseline,
/// or be another than it was.
fn plan_ended_run(
    owner: &RunRef,
    work: Option<&ResolvedRun>,
    before: &RecordedStatus,
    seen: &ObservedState,
    interval: Duration,
) -> ReconcilePlan {
    let ttl = work.and_then(|work| work.ttl_seconds);
    let ended = before.finished_at.as_deref().unwrap_or_default();
    let left = ttl.map(|ttl| ttl - time::seconds_since(ended, seen.now));
    let mut ledger = RecordedStatus {
        observed_generation: owner.generation,
        ..before.clone()
    };

    let gate = work.and_then(|work| work.gate.as_ref());
    gate::evaluate_gate(&mut ledger, before, gate, owner.generation, seen);
    let waits = gate::is_undecided(&ledger).then_some(interval);
    let left_or_one = left.map(|left| Duration::from_secs(left.max(1).unsigned_abs()));

    ReconcilePlan {
        create: None,
        remove: Vec::new(),
        delete_run: left.is_some_and(|left| left <= 0),
        events: events::diff_statuses(before, &ledger),
        status: ledger,
        requeue_after: left_or_one.into_iter().chain(waits).min(),
    }
}

impl ReconcilePlan {
    /// The same plan with what the API server said against it, told as why no pods are at work.
    pub fn mark_refused(
        &mut self,
        owner: &RunRef,
        before: &RecordedStatus,
        seen: &ObservedState,
        message: String,
    ) {
        if !self.status.has_ended() {
            let standing = Phase::Waiting(StatusReason::new("Refused", message));
            conditions::write_conditions(&mut self.status, &standing, owner.generation, seen);
            self.events = events::diff_statuses(before, &self.status);
        }
    }
}

#[cfg(test)]
mod tests;
