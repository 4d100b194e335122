//! Leadership: one replica reconciles, the others wait. Nothing else.

use std::time::Duration;

use kube::Client;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How long the lease lives without its holder.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How often its holder renews it.
const RENEW_PERIOD: Duration = Duration::from_secs(3);
/// How often others try to get it.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// How long a holder that cannot renew still believes in it: less than the lease lives.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// The lease of the operator.
pub struct LeaderElection {
    lock: LeaseLock,
    metrics: Metrics,
}

impl LeaderElection {
    /// A candidate under this name.
    pub fn new(client: Client, namespace: &str, candidate: &str, metrics: Metrics) -> Self {
        let params = LeaseLockParams {
            lease_name: "cnclip-operator".to_owned(),
            holder_id: candidate.to_owned(),
            lease_ttl: LEASE_DURATION,
        };

        Self {
            lock: LeaseLock::new(client, namespace, params),
            metrics,
        }
    }

    /// Waits until this replica leads; `false` if it was told to stop before.
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

    /// Keeps the lease until told to stop or until it is lost; then it is given back or given up.
    pub async fn keep_renewing(&self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        while !stop.is_cancelled() && renewed.elapsed() < RENEW_DEADLINE {
            sleep_or_stop(RENEW_PERIOD, stop).await;
            match self.renew_lease().await {
                Some(true) => renewed = Instant::now(),
                Some(false) => break,
                None => {}
            }
        }

        self.metrics.leader.set(0);
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    pub async fn release_lease(&self) {
        if let Err(error) = self.lock.step_down().await {
            tracing::warn!(%error, "The lease could not be given back");
        }
    }

    /// Whether this replica holds the lease; `None` when nobody could be asked in time.
    async fn renew_lease(&self) -> Option<bool> {
        match timeout(RENEW_PERIOD, self.lock.try_acquire_or_renew()).await {
            Ok(Ok(LeaseLockResult::Acquired(_))) => Some(true),
            Ok(Ok(LeaseLockResult::NotAcquired(_))) => Some(false),
            Ok(Err(error)) => {
                tracing::warn!(%error, "The lease could not be read or renewed");
                None
            }
            Err(_) => {
                tracing::warn!("The lease could not be read or renewed in time");
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
