//! Leader election: one replica reconciles, the others stand by.

use std::time::Duration;

use kube::Client;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Lease duration: others may acquire the lease this long after its last renewal. client-go's default.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// Renewal interval of the leader, and timeout of each request.
const RENEW_PERIOD: Duration = Duration::from_secs(3);
/// Interval at which the other candidates try to acquire the lease.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// Time without a renewal after which the leader stops: shorter than the lease duration, after which another
/// candidate takes over. client-go's default.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Leader election by a `Lease`.
pub struct LeaderElection {
    lock: LeaseLock,
    metrics: Metrics,
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

    /// Waits until this replica is the leader; `false` if it was stopped first.
    pub async fn wait_until_leader(&self, stop: &CancellationToken) -> bool {
        while !stop.is_cancelled() {
            if self.renew_lease().await == Some(true) {
                self.metrics.leader.set(1);
                return true;
            }

            sleep_or_stop(RETRY_PERIOD, stop).await;
        }

        false
    }

    /// Renews the lease until stopped, or until the lease is lost.
    pub async fn keep_renewing(&self, stop: &CancellationToken) {
        // The monotonic clock: a step of the wall clock must not extend the leadership.
        let mut renewed = Instant::now();
        while !stop.is_cancelled() && renewed.elapsed() < RENEW_DEADLINE {
            sleep_or_stop(RENEW_PERIOD, stop).await;
            match self.renew_lease().await {
                Some(true) => renewed = Instant::now(),
                // Another candidate holds it: stop at once.
                Some(false) => break,
                // The API server may be back before the deadline.
                None => {}
            }
        }

        self.metrics.leader.set(0);
    }

    /// Releases the lease on shutdown, so that another replica need not wait for its expiry.
    pub async fn release_lease(&self) {
        if let Err(error) = self.lock.step_down().await {
            tracing::warn!(%error, "Lease not released");
        }
    }

    /// Whether this replica holds the lease; `None` if the API server did not answer in time.
    async fn renew_lease(&self) -> Option<bool> {
        // The client may retry within a request; without a timeout one renewal could outlast the
        // lease.
        match timeout(RENEW_PERIOD, self.lock.try_acquire_or_renew()).await {
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

async fn sleep_or_stop(length: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(length) => {}
    }
}
