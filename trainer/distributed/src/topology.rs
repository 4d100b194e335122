//! Where a rank sits among the others, and how long it waits for them. Pure.

use std::ops::Range;
use std::time::Duration;

/// How often a worker sends a heartbeat: a second is short against a training step and costs one small
/// packet for each connection.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A worker without a heartbeat for this long has failed. Ten missed heartbeats: longer than a pause of the
/// network or a throttled process, and far shorter than the minutes in which TCP itself would notice.
pub(crate) const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);

/// A neighbour that sends heartbeats and yet nothing around the ring for this long has failed too. An hour,
/// because a rank may legitimately wait for a store meanwhile, whose outages are ridden out for 40 minutes.
pub(crate) const STUCK_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long the workers of a run may take to come: pods are scheduled one by one, and nodes may have to
/// pull an image of several gigabytes first.
pub(crate) const RENDEZVOUS_TIMEOUT: Duration = Duration::from_secs(600);

/// Rings side by side: one for the collectives that a step waits for, one for gradients that are reduced
/// meanwhile. On one ring they would block, or mix with, each other.
pub(crate) const RING_CHANNELS: usize = 2;

/// The place of a rank in the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RankTopology {
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    /// Ranks of one worker.
    pub(crate) local_world_size: usize,
}

impl RankTopology {
    /// A rank by itself.
    pub(crate) fn single_rank() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            local_world_size: 1,
        }
    }

    /// The worker that a rank is part of.
    pub(crate) fn worker_of_rank(&self, rank: usize) -> usize {
        rank / self.local_world_size
    }

    /// The rank before this one in the ring.
    pub(crate) fn previous_rank(&self) -> usize {
        (self.rank + self.world_size - 1) % self.world_size
    }
}

/// The place of a process among the workers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerTopology {
    pub(crate) worker: usize,
    pub(crate) workers: usize,
    /// Devices, and so ranks, of each worker.
    pub(crate) devices: usize,
}

impl WorkerTopology {
    /// The place of the rank of one of this worker's devices.
    pub(crate) fn rank_topology(&self, device: usize) -> RankTopology {
        RankTopology {
            rank: self.worker * self.devices + device,
            world_size: self.workers * self.devices,
            local_world_size: self.devices,
        }
    }
}

/// The ranks of a worker with so many devices.
pub(crate) fn ranks_of_worker(worker: usize, devices: usize) -> Range<usize> {
    worker * devices..(worker + 1) * devices
}
