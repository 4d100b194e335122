//! Order of the requests: which pod is asked next. Pure.
//!
//! The namespace with the fewest requests in progress comes first, equal ones take turns, and within a
//! namespace the pod that is due longest comes first: the slots are shared equally, however long each request
//! takes. The requests in progress are bounded in total and per namespace, and those to pods that did not
//! answer last time are bounded once more: no number of such pods delays the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Included, Unbounded},
};

use tokio::time::Instant;

use crate::run_key::RunKey;

/// Maximum numbers of requests in progress.
#[derive(Clone, Copy, Debug)]
pub struct PollLimits {
    /// In total.
    pub total: usize,
    /// To pods of one namespace.
    pub per_namespace: usize,
    /// To pods that did not answer last time, in total.
    pub failing: usize,
    /// To pods of one namespace that did not answer last time.
    pub failing_per_namespace: usize,
}

/// Whether a pod answered last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// It did, or it was not asked yet.
    Answering,
    /// It did not.
    Failing,
}

/// A request in progress: occupies a slot until [`PollQueue::release`].
#[derive(Debug)]
#[must_use]
pub struct Slot {
    /// Run whose pod is asked.
    pub run: RunKey,
    /// Time at which it was due.
    pub due: Instant,
    lane: Lane,
}

/// What to do next.
#[derive(Debug)]
pub enum Next {
    /// Start this request.
    Start(Slot),
    /// Wait until this time, or until a request ends.
    Wait(Option<Instant>),
}

/// Pods by due time.
#[derive(Debug)]
pub struct PollQueue {
    limits: PollLimits,
    namespaces: BTreeMap<String, NamespaceQueue>,
    in_flight: InFlight,
    /// Namespace of the last request.
    last: String,
}

#[derive(Debug, Default)]
struct NamespaceQueue {
    answering: BTreeSet<(Instant, RunKey)>,
    failing: BTreeSet<(Instant, RunKey)>,
    in_flight: InFlight,
}

/// Numbers of requests in progress.
#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    total: usize,
    failing: usize,
}

impl InFlight {
    fn add(&mut self, lane: Lane) {
        self.total += 1;
        self.failing += usize::from(lane == Lane::Failing);
    }

    fn remove(&mut self, lane: Lane) {
        self.total -= 1;
        self.failing -= usize::from(lane == Lane::Failing);
    }
}

impl NamespaceQueue {
    fn lane(&mut self, lane: Lane) -> &mut BTreeSet<(Instant, RunKey)> {
        match lane {
            Lane::Answering => &mut self.answering,
            Lane::Failing => &mut self.failing,
        }
    }

    fn is_empty(&self) -> bool {
        self.answering.is_empty() && self.failing.is_empty() && self.in_flight.total == 0
    }

    /// The pod that is due first among those that a slot is free for.
    fn first_due(&self, limits: &PollLimits, in_flight: InFlight) -> Option<(Instant, Lane)> {
        if self.in_flight.total >= limits.per_namespace || in_flight.total >= limits.total {
            return None;
        }

        let answering = self
            .answering
            .first()
            .map(|(due, _)| (*due, Lane::Answering));
        let failing = self.failing.first().map(|(due, _)| (*due, Lane::Failing));
        let failing = failing.filter(|_| {
            self.in_flight.failing < limits.failing_per_namespace
                && in_flight.failing < limits.failing
        });

        answering
            .into_iter()
            .chain(failing)
            .min_by_key(|head| head.0)
    }
}

impl PollQueue {
    /// An empty queue.
    pub fn new(limits: PollLimits) -> Self {
        Self {
            limits,
            namespaces: BTreeMap::new(),
            in_flight: InFlight::default(),
            last: String::new(),
        }
    }

    /// Adds the pod of a run.
    pub fn insert(&mut self, run: RunKey, due: Instant, lane: Lane) {
        let namespace = self.namespaces.entry(run.namespace.clone()).or_default();
        namespace.lane(lane).insert((due, run));
    }

    /// Removes the pod of a run.
    pub fn remove(&mut self, run: &RunKey, due: Instant, lane: Lane) {
        if let Some(namespace) = self.namespaces.get_mut(&run.namespace) {
            namespace.lane(lane).remove(&(due, run.clone()));
            self.drop_if_empty(&run.namespace);
        }
    }

    /// Takes the pod to ask next.
    pub fn pop_due(&mut self, now: Instant) -> Next {
        let mut earliest = None;
        let mut chosen: Option<(&String, &NamespaceQueue, Lane)> = None;
        for (name, namespace) in self.namespaces_in_turn() {
            match namespace.first_due(&self.limits, self.in_flight) {
                Some((due, lane)) if due <= now => {
                    let fewer =
                        |best: &NamespaceQueue| namespace.in_flight.total < best.in_flight.total;

                    if chosen.is_none_or(|(_, best, _)| fewer(best)) {
                        chosen = Some((name, namespace, lane));
                    }
                }
                Some((due, _)) => earliest = earliest.into_iter().chain([due]).min(),
                None => {}
            }
        }

        match chosen.map(|(name, _, lane)| (name.clone(), lane)) {
            Some((namespace, lane)) => self.start(namespace, lane),
            None => Next::Wait(earliest),
        }
    }

    /// The namespaces, from the one after that of the last request on.
    fn namespaces_in_turn(&self) -> impl Iterator<Item = (&String, &NamespaceQueue)> {
        let last = self.last.as_str();
        let after = self.namespaces.range::<str, _>((Excluded(last), Unbounded));
        let up_to = self.namespaces.range::<str, _>((Unbounded, Included(last)));
        after.chain(up_to)
    }

    fn start(&mut self, namespace: String, lane: Lane) -> Next {
        let queue = self.namespaces.entry(namespace.clone()).or_default();
        let Some((due, run)) = queue.lane(lane).pop_first() else {
            return Next::Wait(None);
        };

        queue.in_flight.add(lane);
        self.in_flight.add(lane);
        self.last = namespace;
        Next::Start(Slot { run, due, lane })
    }

    /// Frees the slot of a request.
    pub fn release(&mut self, slot: Slot) {
        self.in_flight.remove(slot.lane);
        if let Some(namespace) = self.namespaces.get_mut(&slot.run.namespace) {
            namespace.in_flight.remove(slot.lane);
            self.drop_if_empty(&slot.run.namespace);
        }
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self
            .namespaces
            .get(name)
            .is_some_and(NamespaceQueue::is_empty)
        {
            self.namespaces.remove(name);
        }
    }
}

#[cfg(test)]
mod tests;
