//! One rank's handle on all the others: the collectives that training calls.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{AddAssign, Range};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytemuck::Pod;
use cnclip_compute::collective::Collective;
use cnclip_compute::device::{Device, DeviceGroup};
use cnclip_compute::sync::lock_ignoring_poison;
use cnclip_compute::tensor::TensorViewMut;

use crate::abort_state::AbortState;
use crate::control::ControlPlane;
use crate::device_group;
use crate::error::{Error, Origin, RankError, Result};
use crate::failure_reporter::FailureReporter;
use crate::gradient_buckets::GradientBuckets;
use crate::link::WaitTicks;
use crate::ring::RingCollective;
use crate::topology::RankTopology;

/// One rank's handle on all the others.
///
/// # Guarantees
/// All ranks call the same collectives in the same order, and all get the same bits. Once a rank has
/// failed, no collective waits any longer: values stay as they are, and
/// [`check_peers`](Self::check_peers) returns the failure.
///
/// # Examples
/// ```
/// use cnclip_distributed::Communicator;
///
/// let communicator = Communicator::single_rank();
/// let mut values = [1.0f32, 2.0];
/// communicator.all_reduce_sum(&mut values);
/// communicator.barrier()?;
/// assert_eq!(values, [1.0, 2.0]);
/// # Ok::<(), cnclip_distributed::Error>(())
/// ```
#[derive(Debug)]
pub struct Communicator {
    topology: RankTopology,
    abort_state: Arc<AbortState>,
    control: Option<Arc<ControlPlane>>,
    /// For one collective at a time. Held for as long as that takes; no other lock is taken meanwhile but
    /// that of the abort state, which nobody holds for long.
    ring: Mutex<RingCollective>,
    /// Until [`gradient_buckets`](Self::gradient_buckets) takes it.
    gradient_ring: Mutex<Option<RingCollective>>,
    /// The ranks' devices, where they reach one another by themselves.
    device_group: OnceLock<Arc<DeviceGroup>>,
    ticks: Arc<WaitTicks>,
}

/// Numbers of a device's tensor that are in host memory at a time while they are broadcast: 64 MiB.
const HOST_WINDOW_LEN: usize = 16 << 20;

/// What a communicator is made of.
pub(crate) struct CommunicatorParts {
    pub(crate) topology: RankTopology,
    pub(crate) abort_state: Arc<AbortState>,
    pub(crate) control: Option<Arc<ControlPlane>>,
    pub(crate) ring: RingCollective,
    pub(crate) gradient_ring: RingCollective,
    /// Of both rings.
    pub(crate) ticks: Arc<WaitTicks>,
}

impl Communicator {
    /// A rank by itself.
    pub fn single_rank() -> Self {
        let topology = RankTopology::single_rank();
        let abort_state = Arc::default();
        let ticks = Arc::default();
        let ring =
            || RingCollective::new(topology, None, Arc::clone(&abort_state), Arc::clone(&ticks));

        Self::from_parts(CommunicatorParts {
            topology,
            ticks: Arc::clone(&ticks),
            ring: ring(),
            gradient_ring: ring(),
            abort_state: Arc::clone(&abort_state),
            control: None,
        })
    }

    pub(crate) fn from_parts(parts: CommunicatorParts) -> Self {
        Self {
            topology: parts.topology,
            abort_state: parts.abort_state,
            control: parts.control,
            ring: Mutex::new(parts.ring),
            gradient_ring: Mutex::new(Some(parts.gradient_ring)),
            device_group: OnceLock::new(),
            ticks: parts.ticks,
        }
    }

    /// Whether this is rank 0, which reports and writes files for all.
    pub fn is_rank_zero(&self) -> bool {
        self.topology.rank == 0
    }

    /// The worker that a rank is part of.
    pub fn worker_of_rank(&self, rank: usize) -> usize {
        self.topology.worker_of_rank(rank)
    }

    /// # Errors
    /// Which worker has failed, if one has.
    pub fn check_peers(&self) -> Result<()> {
        self.abort_state.check_failure()
    }

    /// Sets the step that this rank is at, which messages about failures name.
    pub fn set_step(&self, step: u64) {
        self.abort_state.set_step(step);
    }

    /// A number that grows while this rank waits for others in a collective over the network or between threads. It
    /// can be read while the rank waits.
    pub fn peer_wait_ticks(&self) -> u64 {
        self.ticks.count()
    }

    /// Whether ranks wait for each other on their devices, where [`Self::peer_wait_ticks`] does not see it.
    pub fn waits_on_device(&self) -> bool {
        self.device_group.get().is_some()
    }

    /// Announces to all ranks that this one failed: their collectives end.
    pub fn announce_failure(&self, message: &str) {
        self.failure_reporter()
            .report_failure(Origin::Local, message);
    }

    /// How long this rank has waited for others so far.
    pub fn wait_time(&self) -> Duration {
        self.lock_ring().wait_time()
    }

    /// Replaces every value by its sum over all ranks.
    pub fn all_reduce_sum<T: Pod + AddAssign>(&self, values: &mut [T]) {
        self.lock_ring().all_reduce_sum(values);
    }

    /// Fills in the values of the others: each rank brings an equal part, in the order of the ranks.
    pub fn all_gather<T: Pod>(&self, values: &mut [T]) {
        let part_len = values.len() / self.topology.world_size;
        self.lock_ring()
            .all_gather(values, |rank| rank * part_len..(rank + 1) * part_len);
    }

    /// The values of each rank, whose numbers may differ.
    ///
    /// # Errors
    /// If a rank has failed.
    ///
    /// # Examples
    /// ```
    /// use cnclip_compute::collective::Collective;
    /// use cnclip_distributed::run_on_ranks;
    ///
    /// let gathered = run_on_ranks(2, |communicator| {
    ///     let local = vec![7u64; 1 + communicator.rank()];
    ///     communicator.all_gather_varlen(&local)
    /// })?;
    ///
    /// for values in gathered {
    ///     assert_eq!(values?, [vec![7], vec![7, 7]]);
    /// }
    /// # Ok::<(), cnclip_distributed::Error>(())
    /// ```
    pub fn all_gather_varlen<T: Pod>(&self, local: &[T]) -> Result<Vec<Vec<T>>> {
        // The lengths first: only then does a rank know how much to receive from each.
        let mut lengths = vec![0u64; self.topology.world_size];
        lengths[self.topology.rank] = local.len() as u64;
        self.all_gather(&mut lengths);
        // Checked before they are used, because lengths of a failed collective are no lengths.
        self.check_peers()?;

        let ranges = consecutive_ranges(&lengths);
        let total_len = ranges.last().map_or(0, |range| range.end);
        let mut all = vec![T::zeroed(); total_len];
        all[ranges[self.topology.rank].clone()].copy_from_slice(local);
        self.lock_ring()
            .all_gather(&mut all, |rank| ranges[rank].clone());
        self.check_peers()?;

        Ok(ranges
            .into_iter()
            .map(|range| all[range].to_vec())
            .collect())
    }

    /// The values of each rank, in the order of the ranks.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn all_gather_concat<T: Pod>(&self, local: Vec<T>) -> Result<Vec<T>> {
        if self.topology.world_size == 1 {
            Ok(local)
        } else {
            Ok(self.all_gather_varlen(&local)?.concat())
        }
    }

    /// The values of rank 0; those of other ranks are ignored.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn broadcast<T: Pod>(&self, values: &[T]) -> Result<Vec<T>> {
        // The length first: only then does a rank know how much to receive.
        let mut len = [values.len() as u64];
        self.broadcast_in_place(&mut len)?;

        let mut received = match self.is_rank_zero() {
            true => values.to_vec(),
            false => vec![T::zeroed(); len[0] as usize],
        };

        self.broadcast_in_place(&mut received)?;
        Ok(received)
    }

    /// Replaces the values by those of rank 0, which must be as many.
    ///
    /// # Errors
    /// If a rank has failed; then they are of no use.
    ///
    /// # Examples
    /// ```
    /// use cnclip_compute::collective::Collective;
    /// use cnclip_distributed::run_on_ranks;
    ///
    /// let found = run_on_ranks(3, |communicator| {
    ///     let mut values = [communicator.rank() as f32; 2];
    ///     communicator.broadcast_in_place(&mut values).map(|()| values)
    /// })?;
    ///
    /// for values in found {
    ///     assert_eq!(values?, [0.0, 0.0]);
    /// }
    /// # Ok::<(), cnclip_distributed::Error>(())
    /// ```
    pub fn broadcast_in_place<T: Pod>(&self, values: &mut [T]) -> Result<()> {
        self.lock_ring().broadcast(values);
        self.check_peers()
    }

    /// Replaces a tensor in either memory by that of rank 0: from device to device where these are connected.
    ///
    /// # Errors
    /// If a rank has failed; then it is of no use.
    pub fn broadcast_tensor(&self, mut values: TensorViewMut<'_>) -> Result<()> {
        if self.topology.world_size == 1 {
            return Ok(());
        }

        if let (Some(group), TensorViewMut::Device(values)) = (self.device_group.get(), &mut values)
        {
            group.broadcast(values);
            return self.check_peers();
        }

        // In windows: a device's tensor passes through host memory, which need not hold all of it.
        let len = values.len();
        for start in (0..len).step_by(HOST_WINDOW_LEN) {
            let window = start..len.min(start + HOST_WINDOW_LEN);
            let mut window = values.reborrow().slice(window);
            match self.is_rank_zero() {
                true => window.update_on_host(|values| self.broadcast_in_place(values))?,
                false => window.overwrite_with(|values| self.broadcast_in_place(values))?,
            }
        }

        Ok(())
    }

    /// Makes sure that all ranks have the same value; `what` names it in the error.
    ///
    /// # Errors
    /// If a rank has another value, or has failed.
    pub fn ensure_equal_across_ranks(&self, what: &str, value: impl Hash) -> Result<()> {
        if self.topology.world_size == 1 {
            return Ok(());
        }

        // Hashes, because values may be long. `DefaultHasher::new` has fixed keys: equal values hash alike in all processes.
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        let mut hashes = vec![0; self.topology.world_size];
        hashes[self.topology.rank] = hasher.finish();
        self.all_gather(&mut hashes);
        self.check_peers()?;

        let Some(other) = hashes.iter().position(|hash| *hash != hashes[0]) else {
            return Ok(());
        };

        Err(Error::Config(format!(
            "rank {other} (worker {}) has another {what} than rank 0. All workers must see the same files: \
             give them the same, and begin again.",
            self.worker_of_rank(other)
        )))
    }

    /// Waits for all other ranks.
    ///
    /// # Errors
    /// If a rank has failed.
    pub fn barrier(&self) -> Result<()> {
        // No rank gets the sum before every rank has added its value, and so has come here.
        self.all_reduce_sum(&mut [0f64]);
        self.check_peers()
    }

    /// Connects the ranks' devices: from now on tensors in their memory are reduced and gathered from
    /// device to device, instead of through host memory.
    ///
    /// # Errors
    /// If they cannot be connected, or a rank has failed.
    pub fn connect_devices(&self, device: &Device) -> Result<()> {
        if self.topology.world_size == 1 {
            return Ok(());
        }

        // As NCCL's bootstrap requires: one rank makes the id, and all join with it.
        let id = if self.is_rank_zero() {
            device.new_communicator_id()?
        } else {
            Vec::new()
        };

        let id = self.broadcast(&id)?;
        let group = device_group::join_device_group(self.failure_reporter(), device, id)?;
        // A second call keeps the first group.
        self.device_group.get_or_init(|| group);

        Ok(())
    }

    /// The all-reduce of gradients that overlaps with the backward pass. Takes the ring of gradients: a
    /// second call would leave gradients as they are.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn gradient_buckets(&self) -> Result<GradientBuckets> {
        if let Some(group) = self.device_group.get() {
            return Ok(GradientBuckets::with_device_group(Arc::clone(group)));
        }

        let ring = lock_ignoring_poison(&self.gradient_ring).take();

        GradientBuckets::with_ring(ring.filter(|_| self.topology.world_size > 1))
    }

    pub(crate) fn failure_reporter(&self) -> FailureReporter {
        FailureReporter {
            topology: self.topology,
            abort_state: Arc::clone(&self.abort_state),
            control: self.control.clone(),
        }
    }

    /// The error that explains why this rank ended. A rank may see a consequence first: its own failure as
    /// a peer's, after its device group was aborted; or a device error, after that was aborted because of
    /// another rank.
    pub(crate) fn root_cause<E: RankError>(&self, error: E) -> E {
        let failed_itself = self.abort_state.is_failure_of(self.topology.rank);
        match error.origin() {
            Origin::PeerFailure if failed_itself => self
                .device_group
                .get()
                .and_then(|group| group.first_error())
                .map_or(error, |device_error| Error::Device(device_error).into()),
            Origin::Device if !failed_itself => self.check_peers().err().map_or(error, E::from),
            _ => error,
        }
    }

    /// A panic inside a collective poisons the lock; the rank ends then, and others may still ask how long
    /// it waited.
    fn lock_ring(&self) -> MutexGuard<'_, RingCollective> {
        lock_ignoring_poison(&self.ring)
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
            (Some(group), TensorViewMut::Device(values)) => group.all_gather(values),
            _ if self.topology.world_size > 1 => {
                values.update_on_host(|values| self.all_gather(values))
            }
            _ => {}
        }
    }
}

/// Adjacent ranges of the given lengths.
fn consecutive_ranges(lengths: &[u64]) -> Vec<Range<usize>> {
    let mut end = 0;
    lengths
        .iter()
        .map(|&length| {
            let start = end;
            end += length as usize;
            start..end
        })
        .collect()
}
