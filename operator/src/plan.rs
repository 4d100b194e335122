//! Decides. From the manifest as work, what is on record and what was seen, says which objects should
//! come and go, how the run stands, and when to look again.
//!
//! No client, no clock, no `Result`. A manifest that cannot work is data; it is no error of the operator.

use std::time::Duration;

use crate::{
    ledger::Ledger,
    objects::Objects,
    observed::Observed,
    run::{Defaults, Owner},
    status::{conditions, notices},
    time,
    work::{Cause, Work},
};

pub mod admission;
mod draft;
pub mod failure;
mod gate;
pub mod stages;
pub mod start;

use draft::Draft;

/// What should be done about one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What will be on record.
    pub ledger: Ledger,
    /// Objects of the attempt that should begin.
    pub create: Option<Objects>,
    /// Names of the objects of attempts that should go.
    pub remove: Vec<String>,
    /// The run's time is over: its own object should go.
    pub delete_run: bool,
    /// What people should hear of.
    pub notices: Vec<notices::Notice>,
    /// When to look again even if nothing changes.
    pub look_again: Option<Duration>,
}

/// How a run stands, in one word and a sentence; becomes the conditions.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// The manifest can never work.
    Rejected(Cause),
    /// No pods are at work, for this reason.
    Waiting(Cause),
    /// Pods are at work.
    Running(String),
    /// The user holds it back.
    Suspended(String),
    /// Everything is done.
    Complete(String),
    /// It is given up.
    Failed(Cause),
}

/// What should be done about a run.
pub fn plan(
    owner: &Owner,
    work: Result<Work, Cause>,
    before: &Ledger,
    seen: &Observed,
    defaults: &Defaults,
) -> Plan {
    let interval = Duration::from_secs(defaults.progress_interval_seconds);
    let mut draft = Draft {
        ledger: before.clone(),
        create: None,
        remove: Vec::new(),
        look_again: Some(interval),
    };

    let gate = work.as_ref().ok().and_then(|work| work.gate.as_ref());
    let standing = match &work {
        _ if before.ended() => {
            return after_the_end(owner, work.as_ref().ok(), before, seen, interval);
        }
        Err(cause) => {
            draft.look_again = None;
            Standing::Rejected(cause.clone())
        }
        Ok(work) => draft.advance(owner, work, seen),
    };

    let mut ledger = draft.ledger;
    conditions::write(&mut ledger, &standing, owner.generation, seen);
    gate::judge(&mut ledger, before, gate, owner.generation, seen);
    let notices = notices::between(before, &ledger);

    Plan {
        notices,
        ledger,
        create: draft.create,
        remove: draft.remove,
        delete_run: false,
        look_again: draft.look_again,
    }
}

/// An ended run is never begun again, also when its Jobs are gone. A gate may still wait for its baseline,
/// or be another than it was.
fn after_the_end(
    owner: &Owner,
    work: Option<&Work>,
    before: &Ledger,
    seen: &Observed,
    interval: Duration,
) -> Plan {
    let ttl = work.and_then(|work| work.ttl_seconds);
    let ended = before.finished_at.as_deref().unwrap_or_default();
    let left = ttl.map(|ttl| ttl - time::seconds_since(ended, seen.now));
    let mut ledger = Ledger {
        observed_generation: owner.generation,
        ..before.clone()
    };

    let gate = work.and_then(|work| work.gate.as_ref());
    gate::judge(&mut ledger, before, gate, owner.generation, seen);
    let waits = gate::is_open(&ledger).then_some(interval);
    let left_or_one = left.map(|left| Duration::from_secs(left.max(1).unsigned_abs()));

    Plan {
        create: None,
        remove: Vec::new(),
        delete_run: left.is_some_and(|left| left <= 0),
        notices: notices::between(before, &ledger),
        ledger,
        look_again: left_or_one.into_iter().chain(waits).min(),
    }
}

impl Plan {
    /// The same plan with what the API server said against it, told as why no pods are at work.
    pub fn refused(&mut self, owner: &Owner, before: &Ledger, seen: &Observed, message: String) {
        if !self.ledger.ended() {
            let standing = Standing::Waiting(Cause::new("Refused", message));
            conditions::write(&mut self.ledger, &standing, owner.generation, seen);
            self.notices = notices::between(before, &self.ledger);
        }
    }
}

#[cfg(test)]
mod tests;
