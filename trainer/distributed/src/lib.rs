//! The ranks that train together: threads of this process and of others, in one ring. Knows how numbers
//! reach all of them and when one of them is lost; never what the numbers mean.
//!
//! ```text
//! rank = worker · devices + device
//! ring      each rank → the next, around: a channel inside a process, TCP between two
//! control   each worker ↔ worker 0: hello, heartbeats, who was lost
//! ```

mod abort_state;
mod control;
mod control_message;
mod device_group;
pub mod error;
mod gradient_buckets;
mod link;
mod local_ranks;
mod rendezvous;
mod ring;
mod straggler;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytemuck::Pod;

pub use error::{Error, Origin, RankError, Result};
pub use gradient_buckets::GradientBuckets;
pub use local_ranks::{JoinRequest, LocalRanks, each};
pub use straggler::{Straggler, StragglerDetector};

use abort_state::AbortState;
use cnclip_compute::collective::Collective;
use cnclip_compute::device::{Device, DeviceGroup};
use cnclip_compute::tensor::TensorViewMut;
use control::ControlPlane;
use ring::RingCollective;

/// How often a worker lets the others hear of it.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A worker that was not heard of for so long is lost.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// A neighbour that is heard of and yet sends nothing for so long is lost too: it may write a large
/// checkpoint, or read a large data set.
const STUCK_TIMEOUT: Duration = Duration::from_secs(1800);
/// How long the workers of a run may take to come.
const RENDEZVOUS_TIMEOUT: Duration = Duration::from_secs(600);
/// Rings beside each other: what a step asks for, and the gradients that travel meanwhile.
const RING_CHANNELS: usize = 2;

/// Where a rank sits in the ring.
#[derive(Clone, Copy, Debug)]
struct RankTopology {
    rank: usize,
    world_size: usize,
    /// Ranks of one worker.
    local_world_size: usize,
}

/// One rank's way to all the others.
///
/// # Guarantees
/// All ranks get the same bits. Once a rank is lost, nothing waits any longer: values stay as they
/// are, and [`World::check`] tells.
#[derive(Debug)]
pub struct Communicator {
    topology: RankTopology,
    abort_state: Arc<AbortState>,
    control: Option<Arc<ControlPlane>>,
    ring: Mutex<RingCollective>,
    /// Until it is asked for.
    gradient_ring: Mutex<Option<RingCollective>>,
    /// The ranks' devices, where they reach one another by themselves.
    device_group: OnceLock<Arc<DeviceGroup>>,
}

impl Communicator {
    /// A rank by itself.
    pub fn single_rank() -> Self {
        let seat = RankTopology {
            rank: 0,
            world_size: 1,
            local_world_size: 1,
        };

        let fate = Arc::default();
        let ring = || RingCollective::new(seat, None, Arc::clone(&fate));
        let (ring, gradients) = (Mutex::new(ring()), Mutex::new(Some(ring())));
        Self {
            topology: seat,
            abort_state: fate,
            control: None,
            ring,
            gradient_ring: gradients,
            device_group: OnceLock::new(),
        }
    }

    /// Whether this is rank 0, which speaks for all.
    pub fn is_rank_zero(&self) -> bool {
        self.topology.rank == 0
    }

    /// The worker that a rank is part of.
    pub fn worker_of_rank(&self, rank: usize) -> usize {
        rank / self.topology.local_world_size
    }

    /// # Errors
    /// Which worker is no longer there, if one is not.
    pub fn check_peers(&self) -> Result<()> {
        self.abort_state.check_lost()
    }

    /// Keeps which step this rank is at, for what is told of a loss.
    pub fn set_step(&self, step: u64) {
        self.abort_state.set_step(step);
    }

    /// How long others let this rank wait so far.
    pub fn wait_time(&self) -> Duration {
        self.lock_ring().wait_time()
    }

    /// Makes every value its sum over all ranks.
    pub fn all_reduce_sum<T: Pod + AddAssign>(&self, values: &mut [T]) {
        self.lock_ring().all_reduce_sum(values);
    }

    /// Fills in the values of the others: each rank brings an equal part, in the order of the ranks.
    pub fn all_gather<T: Pod>(&self, values: &mut [T]) {
        let part = values.len() / self.topology.world_size;
        self.lock_ring()
            .all_gather(values, |rank| rank * part..(rank + 1) * part);
    }

    /// What each rank brings, however much it is.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn all_gather_varlen<T: Pod>(&self, own: &[T]) -> Result<Vec<Vec<T>>> {
        let mut lengths = vec![0u64; self.topology.world_size];
        lengths[self.topology.rank] = own.len() as u64;
        self.all_gather(&mut lengths);
        self.check_peers()?;
        let ends = lengths.iter().scan(0, |end, length| {
            *end += *length as usize;
            Some(*end)
        });

        let ends: Vec<usize> = ends.collect();
        let place = |rank: usize| ends[rank] - lengths[rank] as usize..ends[rank];
        let mut all = vec![T::zeroed(); ends[ends.len() - 1]];
        all[place(self.topology.rank)].copy_from_slice(own);
        self.lock_ring().all_gather(&mut all, place);
        self.check_peers()?;

        Ok((0..self.topology.world_size)
            .map(|rank| all[place(rank)].to_vec())
            .collect())
    }

    /// What each rank brings, one behind the other.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn all_gather_concat<T: Pod>(&self, own: Vec<T>) -> Result<Vec<T>> {
        if self.topology.world_size == 1 {
            Ok(own)
        } else {
            Ok(self.all_gather_varlen(&own)?.concat())
        }
    }

    /// What rank 0 says, as all hear it; what others say is not heard.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn broadcast<T: Pod>(&self, own: &[T]) -> Result<Vec<T>> {
        let own = if self.is_rank_zero() { own } else { &[] };
        Ok(self.all_gather_varlen(own)?.swap_remove(0))
    }

    /// Makes sure that all have the same: `what` is told where they do not.
    ///
    /// # Errors
    /// If a rank has another, or is lost.
    pub fn ensure_equal_across_ranks(&self, what: &str, of: impl Hash) -> Result<()> {
        if self.topology.world_size == 1 {
            return Ok(());
        }

        // The same for equal things in all workers.
        let mut hasher = DefaultHasher::new();
        of.hash(&mut hasher);
        let mut values = vec![0; self.topology.world_size];
        values[self.topology.rank] = hasher.finish();
        self.all_gather(&mut values);
        self.check_peers()?;
        let Some(other) = values.iter().position(|found| *found != values[0]) else {
            return Ok(());
        };

        Err(Error::Config(format!(
            "rank {other} (worker {}) has another {what} than rank 0. All workers must see the same files: \
             give them the same, and begin again.",
            self.worker_of_rank(other)
        )))
    }

    /// Waits for all others.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn barrier(&self) -> Result<()> {
        self.all_reduce_sum(&mut [0f64]);
        self.check_peers()
    }

    /// Lets the ranks' devices reach one another: from now on what lies in their memory does not go
    /// through that of this machine.
    ///
    /// # Errors
    /// If they cannot, or a rank is lost.
    pub fn connect_devices(&self, device: &Device) -> Result<()> {
        if self.topology.world_size == 1 {
            return Ok(());
        }

        let invitation = if self.is_rank_zero() {
            device.new_communicator_id()?
        } else {
            Vec::new()
        };

        let invitation = self.broadcast(&invitation)?;
        let group = device_group::join_device_group(self.failure_reporter(), device, invitation)?;
        // Whoever connects twice keeps the first.
        self.device_group.get_or_init(|| group);

        Ok(())
    }

    /// The sums of gradients that travel while others are made.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn gradient_buckets(&self) -> Result<GradientBuckets> {
        if let Some(group) = self.device_group.get() {
            return Ok(GradientBuckets::with_device_group(Arc::clone(group)));
        }

        let ring = self
            .gradient_ring
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();

        GradientBuckets::with_ring(ring.filter(|_| self.topology.world_size > 1))
    }

    fn lock_ring(&self) -> MutexGuard<'_, RingCollective> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collective for Communicator {
    fn rank(&self) -> usize {
        self.topology.rank
    }
    fn world_size(&self) -> usize {
        self.topology.world_size
    }
    fn all_reduce_sum_f64(&self, values: &mut [f64]) {
        self.all_reduce_sum(values);
    }
    fn all_gather_f32(&self, values: &mut [f32]) {
        self.all_gather(values);
    }
    fn all_gather_tensor(&self, mut values: TensorViewMut<'_>) {
        match (self.device_group.get(), &mut values) {
            (Some(group), TensorViewMut::Device(span)) => group.all_gather(span),
            _ if self.topology.world_size > 1 => {
                values.update_on_host(|values| self.all_gather(values))
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
