//! Polls the progress of running pods, apart from reconciliations: a pod that is unreachable, silent or slow
//! delays neither a reconciliation nor the progress of another run.
//!
//! [`schedule`] decides, this module sends. Reconciliations register the pod of their run and read what it said
//! last; news trigger a reconciliation.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use cnclip_crds::report::ProgressReport;
use futures::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::jiff::Timestamp;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics, poll_failure::PollError, progress_reader::ReadReport, run_key::RunKey,
    sync::lock_ignoring_poison, triggers::Triggers,
};

pub mod queue;
pub mod schedule;

use queue::PollLimits;
use schedule::{NextPoll, PodProgress, Poll, PollSchedule, PollTarget};

/// Time within which a pod must have answered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests in progress. With the time-out, at least 32 requests per second, 4 of them in one namespace.
const LIMITS: PollLimits = PollLimits {
    total: 64,
    per_namespace: 8,
    failing: 32,
    failing_per_namespace: 4,
};

/// Poller of progress reports; cheap to clone.
#[derive(Clone)]
pub struct ProgressPoller {
    shared: Arc<Shared>,
}

struct Shared {
    schedule: Mutex<PollSchedule>,
    pod_added: Notify,
    triggers: Triggers,
    metrics: Metrics,
}

impl ProgressPoller {
    /// A poller that asks an answering pod once per interval.
    pub fn new(interval: Duration, triggers: Triggers, metrics: Metrics) -> Self {
        let shared = Shared {
            schedule: Mutex::new(PollSchedule::new(interval, LIMITS)),
            pod_added: Notify::new(),
            triggers,
            metrics,
        };

        Self {
            shared: Arc::new(shared),
        }
    }

    /// Polls the pod of a run from now on, and returns what is known of its progress.
    pub fn watch_pod(&self, run: RunKey, target: PollTarget) -> PodProgress {
        let progress = self.schedule().watch_pod(run, target, Instant::now());
        self.shared.pod_added.notify_one();
        progress
    }

    /// Ends the polling of the pod of a run, and returns what is known of its progress.
    pub fn forget_run(&self, run: &RunKey) -> PodProgress {
        self.schedule().forget_run(run)
    }

    /// Ends the polling of the pods of all runs that do not match.
    pub fn retain_runs(&self, keep: impl Fn(&RunKey) -> bool) {
        self.schedule().retain_runs(keep);
    }

    /// Sends requests until stopped.
    pub async fn poll_pods(self, reader: impl ReadReport, stop: CancellationToken) {
        // Not tasks: dropped, and with them their connections, when the poller is stopped.
        let mut requests = FuturesUnordered::new();
        loop {
            let due = loop {
                match self.next_poll() {
                    NextPoll::Send(poll) => requests.push(send_request(&reader, poll)),
                    NextPoll::Wait(due) => break due,
                }
            };

            tokio::select! {
                () = stop.cancelled() => return,
                Some((poll, result)) = requests.next() => self.record(poll, result),
                () = self.shared.pod_added.notified() => {}
                () = wait_until(due) => {}
            }
        }
    }

    fn next_poll(&self) -> NextPoll {
        let mut schedule = self.schedule();
        let next = schedule.next_poll(Instant::now());
        let metrics = &self.shared.metrics;
        metrics
            .polled_pods
            .set(schedule.pods().cast_signed() as i64);
        if let NextPoll::Send(poll) = &next {
            metrics.poll_lag_seconds.observe(poll.lag.as_secs_f64());
        }

        next
    }

    fn record(&self, poll: Poll, result: Result<ProgressReport, PollError>) {
        let outcome = match &result {
            Ok(_) => "read",
            Err(error) => {
                tracing::debug!(address = %poll.address, %error, "No progress");
                error.metric_label()
            }
        };

        let reads = &self.shared.metrics.progress_reads;
        reads.with_label_values(&[outcome]).inc();
        let news = self
            .schedule()
            .finish(poll, result, Instant::now(), Timestamp::now());

        if let Some(run) = news {
            self.shared.triggers.reconcile(run);
        }
    }

    fn schedule(&self) -> MutexGuard<'_, PollSchedule> {
        lock_ignoring_poison(&self.shared.schedule)
    }
}

async fn send_request(
    reader: &impl ReadReport,
    poll: Poll,
) -> (Poll, Result<ProgressReport, PollError>) {
    let answer = timeout(REQUEST_TIMEOUT, reader.read_report(poll.address)).await;
    let result = answer.unwrap_or(Err(PollError::Timeout(REQUEST_TIMEOUT)));
    (poll, result)
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
