//! Planning: a pure function from the resolved run, the recorded status and the observed state to the
//! objects to create and delete, the new status, and the requeue interval.
//!
//! No client, no clock, no `Result`. An invalid spec is an input like any other: it leads to a condition,
//! not to an error of the operator.

use std::time::Duration;

use crate::{
    objects::AttemptObjects,
    observed::ObservedState,
    phase::Phase,
    recorded_status::RecordedStatus,
    resolve::RunRef,
    resolved_run::{ResolvedRun, StatusReason},
    status::{conditions, events},
    time,
};

pub mod failure;
mod gate;
mod leftover_jobs;
pub mod pending;
mod requeue;
mod stage_planner;
pub mod stages;

use leftover_jobs::find_leftover_jobs;
use stage_planner::PlanDraft;

/// Plan of one reconciliation.
#[derive(Clone, Debug)]
pub struct ReconcilePlan {
    /// New status.
    pub status: RecordedStatus,
    /// Objects of the attempt to create.
    pub create: Option<AttemptObjects>,
    /// Names of the attempts whose objects are deleted.
    pub remove: Vec<String>,
    /// Whether the run itself is deleted, because its TTL has expired.
    pub delete_run: bool,
    /// Events to publish.
    pub events: Vec<events::RunEvent>,
    /// Requeue interval, also if no watch event arrives.
    pub requeue_after: Option<Duration>,
}

/// Plans the reconciliation of a run.
pub fn plan_run(
    owner: &RunRef,
    resolved: Result<ResolvedRun, StatusReason>,
    before: &RecordedStatus,
    observed: &ObservedState,
) -> ReconcilePlan {
    let mut draft = PlanDraft {
        status: before.clone(),
        create: None,
        remove: Vec::new(),
        requeue_after: None,
    };

    let gate = resolved
        .as_ref()
        .ok()
        .and_then(|resolved| resolved.gate.as_ref());
    let phase = match &resolved {
        // Before the validity of the spec: an edit after the end must not turn a finished run into
        // a rejected one.
        _ if before.has_ended() => {
            return plan_ended_run(owner, resolved.as_ref().ok(), before, observed);
        }
        // Only a change of the spec helps, and that triggers a reconciliation of its own.
        Err(cause) => Phase::Rejected(cause.clone()),
        Ok(resolved) => {
            let phase = draft.advance_run(owner, resolved, observed);
            draft.requeue_after.get_or_insert_with(|| {
                let uid = &owner.uid;
                requeue::requeue_interval(&phase, resolved, &draft.status, observed, uid)
            });

            phase
        }
    };

    draft.remove.extend(leftover_names(owner, before, observed));
    draft.remove.sort();
    draft.remove.dedup();

    let mut recorded = draft.status;
    conditions::write_conditions(&mut recorded, &phase, owner.generation, observed);
    // After the conditions, which say whether results are still to come.
    gate::evaluate_gate(&mut recorded, before, gate, owner.generation, observed);
    let events = events::diff_statuses(before, &recorded);

    ReconcilePlan {
        events,
        status: recorded,
        create: draft.create,
        remove: draft.remove,
        delete_run: false,
        requeue_after: draft.requeue_after,
    }
}

/// A finished run is never restarted, even if its Jobs are gone. Its gate is still evaluated: it may wait for
/// its baseline, or have been edited.
fn plan_ended_run(
    owner: &RunRef,
    resolved: Option<&ResolvedRun>,
    before: &RecordedStatus,
    observed: &ObservedState,
) -> ReconcilePlan {
    let ttl = resolved.and_then(|resolved| resolved.policy.ttl_seconds_after_finished);
    let ended = before.finished_at.as_deref().unwrap_or_default();
    let left = ttl.map(|ttl| ttl - time::seconds_since(ended, observed.now));
    let mut recorded = RecordedStatus {
        observed_generation: owner.generation,
        ..before.clone()
    };

    let gate = resolved.and_then(|resolved| resolved.gate.as_ref());
    gate::evaluate_gate(&mut recorded, before, gate, owner.generation, observed);
    let waits = gate::is_undecided(&recorded).then(|| requeue::gate_interval(&owner.uid));
    // At least one second: a requeue of zero would repeat until the deletion shows.
    let left_or_one = left.map(|left| Duration::from_secs(left.max(1).unsigned_abs()));

    ReconcilePlan {
        create: None,
        remove: leftover_names(owner, before, observed),
        delete_run: left.is_some_and(|left| left <= 0),
        events: events::diff_statuses(before, &recorded),
        status: recorded,
        requeue_after: left_or_one.into_iter().chain(waits).min(),
    }
}

fn leftover_names(
    owner: &RunRef,
    before: &RecordedStatus,
    observed: &ObservedState,
) -> Vec<String> {
    find_leftover_jobs(before, observed)
        .map(|job| owner.attempt_name(&job.stage, job.attempt))
        .collect()
}

impl ReconcilePlan {
    /// Replaces the phase by `Refused` after the API server has rejected an object, with its message.
    pub fn mark_refused(
        &mut self,
        owner: &RunRef,
        before: &RecordedStatus,
        observed: &ObservedState,
        message: String,
    ) {
        // A run that ends with this plan keeps its final conditions: it waits for no more objects.
        if !self.status.has_ended() {
            let phase = Phase::Waiting(StatusReason::new("Refused", message));
            conditions::write_conditions(&mut self.status, &phase, owner.generation, observed);
            self.events = events::diff_statuses(before, &self.status);
        }
    }
}

#[cfg(test)]
mod tests;
