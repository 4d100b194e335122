//! Pods to poll, when each is due, and what each said last. Pure: the time is an argument.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use cnclip_crds::{report::ProgressReport, trainer_config::RunIdentity};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::queue::{Lane, Next, PollLimits, PollQueue, Slot};
use crate::{
    poll_failure::{PollError, PollFailure},
    run_key::RunKey,
    status::progress,
};

/// Longest delay of the back-off before jitter, which at most doubles it.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Age after which a pod that no reconciliation has confirmed is dropped: several times the longest requeue
/// interval of a run with pods.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(1800);

/// The pod that reports the progress of a run: worker 0 of its current attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct PollTarget {
    /// UID of the pod.
    pub pod_uid: String,
    /// Address of the trainer.
    pub address: SocketAddr,
    /// Attempt of the pod.
    pub attempt: RunIdentity,
}

/// What is known of the progress of a pod.
#[derive(Clone, Debug, Default)]
pub struct PodProgress {
    /// Newest report.
    pub report: Option<Arc<ProgressReport>>,
    /// Failed requests since.
    pub failure: Option<PollFailure>,
}

/// A request to send. Must be handed to [`PollSchedule::finish`].
#[derive(Debug)]
#[must_use]
pub struct Poll {
    /// Address of the trainer.
    pub address: SocketAddr,
    /// How long the request was delayed.
    pub lag: Duration,
    ticket: u64,
    slot: Slot,
}

/// What to do next.
#[derive(Debug)]
pub enum NextPoll {
    /// Send this request.
    Send(Poll),
    /// Wait until this time, or until a request ends or a pod is added.
    Wait(Option<Instant>),
}

struct Entry {
    target: PollTarget,
    /// Differs for every target, so that the answer of an earlier one is not taken for that of this one.
    ticket: u64,
    /// Place in the queue; unset while a request is in progress.
    queued: Option<(Instant, Lane)>,
    backoff: Option<ExponentialBackoff>,
    progress: PodProgress,
    /// Error of a failure that lasts: another one is news.
    lasting_error: Option<PollError>,
    confirmed_at: Instant,
}

/// Schedule of all polls.
pub struct PollSchedule {
    interval: Duration,
    entries: HashMap<RunKey, Entry>,
    queue: PollQueue,
    next_ticket: u64,
}

impl PollSchedule {
    /// An empty schedule that asks an answering pod once per interval.
    pub fn new(interval: Duration, limits: PollLimits) -> Self {
        Self {
            interval,
            entries: HashMap::new(),
            queue: PollQueue::new(limits),
            next_ticket: 0,
        }
    }

    /// Number of pods.
    pub fn pods(&self) -> usize {
        self.entries.len()
    }

    /// Adds or confirms the pod of a run and returns its progress. Another pod of the run is dropped.
    pub fn watch_pod(&mut self, run: RunKey, target: PollTarget, now: Instant) -> PodProgress {
        if let Some(entry) = self.entries.get_mut(&run)
            && entry.target == target
        {
            entry.confirmed_at = now;
            return entry.progress.clone();
        }

        self.forget_run(&run);
        self.next_ticket += 1;
        self.queue.insert(run.clone(), now, Lane::Answering);
        let entry = Entry {
            target,
            ticket: self.next_ticket,
            queued: Some((now, Lane::Answering)),
            backoff: None,
            progress: PodProgress::default(),
            lasting_error: None,
            confirmed_at: now,
        };

        self.entries.insert(run, entry);
        PodProgress::default()
    }

    /// Removes the pod of a run and returns its progress.
    pub fn forget_run(&mut self, run: &RunKey) -> PodProgress {
        let Some(entry) = self.entries.remove(run) else {
            return PodProgress::default();
        };

        if let Some((due, lane)) = entry.queued {
            self.queue.remove(run, due, lane);
        }

        entry.progress
    }

    /// Removes the pods of all runs that do not match.
    pub fn retain_runs(&mut self, keep: impl Fn(&RunKey) -> bool) {
        let gone: Vec<_> = self
            .entries
            .keys()
            .filter(|run| !keep(run))
            .cloned()
            .collect();
        for run in gone {
            self.forget_run(&run);
        }
    }

    /// Selects the next request.
    pub fn next_poll(&mut self, now: Instant) -> NextPoll {
        loop {
            let slot = match self.queue.pop_due(now) {
                Next::Start(slot) => slot,
                Next::Wait(until) => return NextPoll::Wait(until),
            };

            // A queued run always has an entry: both are added and removed together.
            let entry = self.entries.get_mut(&slot.run);
            let confirmed = entry.filter(|entry| now - entry.confirmed_at < CONFIRMATION_TIMEOUT);

            let Some(entry) = confirmed else {
                self.entries.remove(&slot.run);
                self.queue.release(slot);
                continue;
            };

            entry.queued = None;
            return NextPoll::Send(Poll {
                address: entry.target.address,
                lag: now - slot.due,
                ticket: entry.ticket,
                slot,
            });
        }
    }

    /// Records the result of a request. Returns the run if its status may change.
    pub fn finish(
        &mut self,
        poll: Poll,
        result: Result<ProgressReport, PollError>,
        now: Instant,
        at: Timestamp,
    ) -> Option<RunKey> {
        let run = poll.slot.run.clone();
        self.queue.release(poll.slot);
        let entry = self.entries.get_mut(&run)?;
        // Another pod is polled by now, and is in the queue.
        if entry.ticket != poll.ticket {
            return None;
        }

        let news = entry.record(result, at);
        let queued = (now + entry.delay(self.interval), entry.lane());
        entry.queued = Some(queued);
        self.queue.insert(run.clone(), queued.0, queued.1);
        news.then_some(run)
    }
}

impl Entry {
    fn lane(&self) -> Lane {
        match self.progress.failure {
            Some(_) => Lane::Failing,
            None => Lane::Answering,
        }
    }

    /// Records a result. Returns whether it is news.
    fn record(&mut self, result: Result<ProgressReport, PollError>, at: Timestamp) -> bool {
        let is_new = match self.check_origin(result) {
            Ok(report) => {
                let is_new = self.progress.report.as_deref() != Some(&report);
                self.progress.report = Some(Arc::new(report));
                self.progress.failure = None;
                is_new
            }
            Err(error) => {
                let old = self.progress.failure.as_ref();
                self.progress.failure = Some(PollFailure {
                    address: self.target.address,
                    since: old.map_or(at, |old| old.since),
                    error,
                });

                false
            }
        };

        let failure = self.progress.failure.as_ref();
        let lasting = failure.filter(|failure| failure.is_lasting(at));
        let lasting = lasting.map(|failure| failure.error.clone());
        let is_other = self.lasting_error != lasting;
        self.lasting_error = lasting;
        is_new || is_other
    }

    /// The address may by now be that of another pod, and the report that of another attempt.
    fn check_origin(
        &self,
        result: Result<ProgressReport, PollError>,
    ) -> Result<ProgressReport, PollError> {
        let PollTarget {
            pod_uid, attempt, ..
        } = &self.target;

        let report = result?;
        if progress::matches_attempt(&report, attempt, pod_uid) {
            Ok(report)
        } else {
            Err(PollError::OtherPod)
        }
    }

    /// Time to the next request.
    fn delay(&mut self, interval: Duration) -> Duration {
        if self.progress.failure.is_none() {
            self.backoff = None;
            return interval;
        }

        let backoff = self.backoff.get_or_insert_with(|| {
            ExponentialBuilder::default()
                .with_min_delay(interval)
                .with_max_delay(MAX_BACKOFF.max(interval))
                .without_max_times()
                .with_jitter()
                .build()
        });

        backoff.next().unwrap_or(MAX_BACKOFF)
    }
}

#[cfg(test)]
mod tests;
