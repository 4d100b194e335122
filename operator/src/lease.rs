//! Leader election: one replica reconciles, the others stand by.

use std::time::Duration;

use kube::Client;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Lease duration: others may acquire the lease this long after its last renewal. client-go's default.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// Time without a renewal after which the leader stops its controllers. client-go's default.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Interval between renewals of the leader, and longest time of a request.
const RENEW_PERIOD: Duration = Duration::from_secs(3);
/// Interval at which the other candidates try to acquire the lease.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// How far the clocks of two nodes may differ: candidates compare the renewal time that the leader wrote with
/// their own clock.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(1);

/// Leader election by a `Lease`.
pub struct LeaderElection {
    lock: LeaseLock,
    metrics: Metrics,
}

/// Leadership since the last renewal of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerm {
    /// When the request of the last renewal was begun, which is before the time that it wrote into the lease.
    /// Of the monotonic clock: a step of the wall clock must not extend the leadership.
    renewed_at: Instant,
}

/// When the next request for a renewal is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RenewalAttempt {
    begins_at: Instant,
    /// When it is abandoned without an answer.
    abandoned_at: Instant,
}

impl LeaseTerm {
    /// When another candidate may be the leader: whatever acts for this term must have ended by then.
    pub fn ends_at(self) -> Instant {
        self.renewed_at + LEASE_DURATION - MAX_CLOCK_SKEW
    }

    /// The next attempt to renew; `None` if it is too late for one, and the leader has to stop.
    fn next_attempt(self, now: Instant) -> Option<RenewalAttempt> {
        let deadline = self.renewed_at + RENEW_DEADLINE;
        let begins_at = now + RENEW_PERIOD;

        // Not later than the deadline, neither to begin nor to end: a request that hangs would otherwise
        // hide that the lease can be acquired by others.
        (begins_at < deadline).then(|| RenewalAttempt {
            begins_at,
            abandoned_at: deadline.min(begins_at + RENEW_PERIOD),
        })
    }
}

impl LeaderElection {
    /// A candidate with an identity.
    pub fn new(client: Client, namespace: &str, candidate: &str, metrics: Metrics) -> Self {
        let params = LeaseLockParams {
            lease_name: "cnclip-operator".to_owned(),
            // The pod name is new for every pod of a Deployment. A restarted container has the same
            // one, and may renew the lease of its former process at once.
            holder_id: candidate.to_owned(),
            lease_ttl: LEASE_DURATION,
        };

        Self {
            lock: LeaseLock::new(client, namespace, params),
            metrics,
        }
    }

    /// Waits until this replica is the leader; `None` if it was stopped first.
    pub async fn wait_until_leader(&self, stop: &CancellationToken) -> Option<LeaseTerm> {
        while !stop.is_cancelled() {
            let begun_at = Instant::now();
            if self.renew_lease(begun_at + RENEW_PERIOD).await == Some(true) {
                self.metrics.leader.set(1);
                return Some(LeaseTerm {
                    renewed_at: begun_at,
                });
            }

            stopped_before(Instant::now() + RETRY_PERIOD, stop).await;
        }

        None
    }

    /// Renews the lease until stopped, or until the lease is lost or could not be renewed in time.
    ///
    /// # Guarantees
    /// Returns at most `RENEW_DEADLINE` after the last renewal, and with it the last term, in which the work
    /// can still be ended.
    pub async fn keep_renewing(&self, mut term: LeaseTerm, stop: &CancellationToken) -> LeaseTerm {
        while let Some(attempt) = term.next_attempt(Instant::now()) {
            if stopped_before(attempt.begins_at, stop).await {
                break;
            }

            let begun_at = Instant::now();
            match self.renew_lease(attempt.abandoned_at).await {
                Some(true) => {
                    term = LeaseTerm {
                        renewed_at: begun_at,
                    };
                }
                // Another candidate holds it: stop at once.
                Some(false) => break,
                // The API server may be back before the deadline.
                None => {}
            }
        }

        self.metrics.leader.set(0);
        term
    }

    /// Releases the lease on shutdown, so that another replica need not wait for its expiry.
    pub async fn release_lease(&self) {
        match timeout(RENEW_PERIOD, self.lock.step_down()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "Lease not released"),
            Err(_) => tracing::warn!("Lease not released in time"),
        }
    }

    /// Whether this replica holds the lease; `None` if the API server did not answer in time.
    async fn renew_lease(&self, abandoned_at: Instant) -> Option<bool> {
        // The client may retry within a request; without a timeout one renewal could outlast the
        // lease.
        match timeout_at(abandoned_at, self.lock.try_acquire_or_renew()).await {
            Ok(Ok(LeaseLockResult::Acquired(_))) => Some(true),
            Ok(Ok(LeaseLockResult::NotAcquired(_))) => Some(false),
            Ok(Err(error)) => {
                tracing::warn!(%error, "Lease not renewed");
                None
            }
            Err(_) => {
                tracing::warn!("Lease not renewed in time");
                None
            }
        }
    }
}

/// Waits until a time; whether it was stopped before that.
async fn stopped_before(time: Instant, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = sleep_until(time) => false,
    }
}

#[cfg(test)]
mod tests;
