//! The ranks that train together: threads of this process and of others, in one ring. Knows how numbers
//! reach all of them and when one of them is lost; never what the numbers mean.
//!
//! ```text
//! rank = worker · devices + device
//! ring      each rank → the next, around: a channel inside a process, TCP between two
//! control   each worker ↔ worker 0: hello, heartbeats, who was lost
//! ```

mod buckets;
mod control;
mod crew;
pub mod error;
mod fate;
mod group;
mod link;
mod meet;
mod pace;
mod ring;
mod word;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytemuck::Pod;

pub use buckets::Buckets;
pub use crew::{Claim, Crew, each};
pub use error::{Error, Origin, RankError, Result};
pub use pace::{Pace, Slowest};

use cnclip_compute::collective::Ranks;
use cnclip_compute::device::{Device, Group};
use cnclip_compute::tensor::ViewMut;
use control::Control;
use fate::Fate;
use ring::Ring;

/// How often a worker lets the others hear of it.
const BEAT: Duration = Duration::from_secs(1);
/// A worker that was not heard of for so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// A neighbour that is heard of and yet sends nothing for so long is lost too: it may write a large
/// checkpoint, or read a large data set.
const STUCK_AFTER: Duration = Duration::from_secs(1800);
/// How long the workers of a run may take to come.
const MEET_WITHIN: Duration = Duration::from_secs(600);
/// Rings beside each other: what a step asks for, and the gradients that travel meanwhile.
const LANES: usize = 2;

/// Where a rank sits in the ring.
#[derive(Clone, Copy, Debug)]
struct Seat {
    rank: usize,
    count: usize,
    /// Ranks of one worker.
    devices: usize,
}

/// One rank's way to all the others.
///
/// # Guarantees
/// All ranks get the same bits. Once a rank is lost, nothing waits any longer: values stay as they
/// are, and [`World::check`] tells.
#[derive(Debug)]
pub struct World {
    seat: Seat,
    fate: Arc<Fate>,
    control: Option<Arc<Control>>,
    ring: Mutex<Ring>,
    /// Until it is asked for.
    gradients: Mutex<Option<Ring>>,
    /// The ranks' devices, where they reach one another by themselves.
    group: OnceLock<Arc<Group>>,
}

impl World {
    /// A rank by itself.
    pub fn alone() -> Self {
        let seat = Seat {
            rank: 0,
            count: 1,
            devices: 1,
        };

        let fate = Arc::default();
        let ring = || Ring::new(seat, None, Arc::clone(&fate));
        let (ring, gradients) = (Mutex::new(ring()), Mutex::new(Some(ring())));
        Self {
            seat,
            fate,
            control: None,
            ring,
            gradients,
            group: OnceLock::new(),
        }
    }

    /// Whether this is rank 0, which speaks for all.
    pub fn is_first(&self) -> bool {
        self.seat.rank == 0
    }

    /// The worker that a rank is part of.
    pub fn worker(&self, rank: usize) -> usize {
        rank / self.seat.devices
    }

    /// # Errors
    /// Which worker is no longer there, if one is not.
    pub fn check(&self) -> Result<()> {
        self.fate.check()
    }

    /// Keeps which step this rank is at, for what is told of a loss.
    pub fn at(&self, step: u64) {
        self.fate.at(step);
    }

    /// How long others let this rank wait so far.
    pub fn waited(&self) -> Duration {
        self.ring().waited()
    }

    /// Makes every value its sum over all ranks.
    pub fn add<T: Pod + AddAssign>(&self, values: &mut [T]) {
        self.ring().sum(values);
    }

    /// Fills in the values of the others: each rank brings an equal part, in the order of the ranks.
    pub fn collect<T: Pod>(&self, values: &mut [T]) {
        let part = values.len() / self.seat.count;
        self.ring()
            .gather(values, |rank| rank * part..(rank + 1) * part);
    }

    /// What each rank brings, however much it is.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn exchange<T: Pod>(&self, own: &[T]) -> Result<Vec<Vec<T>>> {
        let mut lengths = vec![0u64; self.seat.count];
        lengths[self.seat.rank] = own.len() as u64;
        self.collect(&mut lengths);
        self.check()?;
        let ends = lengths.iter().scan(0, |end, length| {
            *end += *length as usize;
            Some(*end)
        });

        let ends: Vec<usize> = ends.collect();
        let place = |rank: usize| ends[rank] - lengths[rank] as usize..ends[rank];
        let mut all = vec![T::zeroed(); ends[ends.len() - 1]];
        all[place(self.seat.rank)].copy_from_slice(own);
        self.ring().gather(&mut all, place);
        self.check()?;

        Ok((0..self.seat.count)
            .map(|rank| all[place(rank)].to_vec())
            .collect())
    }

    /// What each rank brings, one behind the other.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn concat<T: Pod>(&self, own: Vec<T>) -> Result<Vec<T>> {
        if self.seat.count == 1 {
            Ok(own)
        } else {
            Ok(self.exchange(&own)?.concat())
        }
    }

    /// What rank 0 says, as all hear it; what others say is not heard.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn hear<T: Pod>(&self, own: &[T]) -> Result<Vec<T>> {
        let own = if self.is_first() { own } else { &[] };
        Ok(self.exchange(own)?.swap_remove(0))
    }

    /// Makes sure that all have the same: `what` is told where they do not.
    ///
    /// # Errors
    /// If a rank has another, or is lost.
    pub fn agree(&self, what: &str, of: impl Hash) -> Result<()> {
        if self.seat.count == 1 {
            return Ok(());
        }

        // The same for equal things in all workers.
        let mut hasher = DefaultHasher::new();
        of.hash(&mut hasher);
        let mut values = vec![0; self.seat.count];
        values[self.seat.rank] = hasher.finish();
        self.collect(&mut values);
        self.check()?;
        let Some(other) = values.iter().position(|found| *found != values[0]) else {
            return Ok(());
        };

        Err(Error::Config(format!(
            "rank {other} (worker {}) has another {what} than rank 0. All workers must see the same files: \
             give them the same, and begin again.",
            self.worker(other)
        )))
    }

    /// Waits for all others.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn meet(&self) -> Result<()> {
        self.add(&mut [0f64]);
        self.check()
    }

    /// Lets the ranks' devices reach one another: from now on what lies in their memory does not go
    /// through that of this machine.
    ///
    /// # Errors
    /// If they cannot, or a rank is lost.
    pub fn connect(&self, device: &Device) -> Result<()> {
        if self.seat.count == 1 {
            return Ok(());
        }

        let invitation = if self.is_first() {
            device.invite()?
        } else {
            Vec::new()
        };

        let invitation = self.hear(&invitation)?;
        let group = group::join(self.own(), device, invitation)?;
        // Whoever connects twice keeps the first.
        self.group.get_or_init(|| group);

        Ok(())
    }

    /// The sums of gradients that travel while others are made.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn buckets(&self) -> Result<Buckets> {
        if let Some(group) = self.group.get() {
            return Ok(Buckets::of(Arc::clone(group)));
        }

        let ring = self
            .gradients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();

        Buckets::start(ring.filter(|_| self.seat.count > 1))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ranks for World {
    fn rank(&self) -> usize {
        self.seat.rank
    }
    fn count(&self) -> usize {
        self.seat.count
    }
    fn sum(&self, values: &mut [f64]) {
        self.add(values);
    }
    fn gather(&self, values: &mut [f32]) {
        self.collect(values);
    }
    fn gather_array(&self, mut values: ViewMut<'_>) {
        match (self.group.get(), &mut values) {
            (Some(group), ViewMut::Device(span)) => group.gather(span),
            _ if self.seat.count > 1 => values.edit(|values| self.gather(values)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
