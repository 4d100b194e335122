//! Collectives between emulated devices of one process, as between GPUs through NCCL.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};

use cnclip_compute::device::{DeviceAddress, DeviceCommunicator, DeviceError};
use cnclip_compute::sync::{ignore_poison, lock_ignoring_poison};

use crate::memory::EmulatedMemory;

/// Communicators that ranks are waiting to join, by their id.
static RENDEZVOUS: LazyLock<Mutex<HashMap<Vec<u8>, Arc<Rendezvous>>>> =
    LazyLock::new(Mutex::default);

/// An id that no other call returns.
pub(crate) fn new_communicator_id() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_ne_bytes().to_vec()
}

/// Waits until all ranks have joined.
pub(crate) fn join_communicator(
    memory: Arc<Mutex<EmulatedMemory>>,
    invitation: &[u8],
    rank: usize,
    count: usize,
) -> Result<EmulatedCommunicator, DeviceError> {
    let meeting = lock_ignoring_poison(&RENDEZVOUS)
        .entry(invitation.to_vec())
        .or_default()
        .clone();

    let own = EmulatedCommunicator {
        memory,
        rendezvous: meeting,
        rank,
        count,
    };

    own.all_gather_values("to meet", Vec::new())?;
    lock_ignoring_poison(&RENDEZVOUS).remove(invitation);
    Ok(own)
}

/// A communicator whose calls wait for those of the other ranks.
#[derive(Debug)]
pub(crate) struct EmulatedCommunicator {
    memory: Arc<Mutex<EmulatedMemory>>,
    rendezvous: Arc<Rendezvous>,
    rank: usize,
    count: usize,
}

/// Where ranks exchange their contributions.
#[derive(Debug, Default)]
struct Rendezvous {
    round: Mutex<CollectiveRound>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct CollectiveRound {
    /// The operation and the numbers of each rank that has called.
    contributions: HashMap<usize, (String, Vec<f32>)>,
    /// The contributions of all ranks in their order, and how many ranks have yet to take them.
    gathered: Option<(Arc<Vec<Vec<f32>>>, usize)>,
    /// Why the communicator was aborted.
    aborted: Option<DeviceError>,
}

impl Rendezvous {
    fn abort_round(&self, round: &mut CollectiveRound, why: DeviceError) {
        round.aborted.get_or_insert(why);
        self.changed.notify_all();
    }

    /// Waits until a condition holds, or the communicator is aborted.
    fn wait_until<'a>(
        &self,
        round: MutexGuard<'a, CollectiveRound>,
        condition: impl Fn(&CollectiveRound) -> bool,
    ) -> Result<MutexGuard<'a, CollectiveRound>, DeviceError> {
        let round = self
            .changed
            .wait_while(round, |round| round.aborted.is_none() && !condition(round));

        let round = ignore_poison(round);
        round.aborted.clone().map_or(Ok(round), Err)
    }
}

impl EmulatedCommunicator {
    /// The contributions of all ranks, in their order.
    ///
    /// A round ends when the last rank has taken them: a fast rank that calls again before waits for that, so that
    /// rounds cannot mix.
    fn all_gather_values(
        &self,
        what: &str,
        own: Vec<f32>,
    ) -> Result<Arc<Vec<Vec<f32>>>, DeviceError> {
        let Rendezvous { round, changed } = &*self.rendezvous;
        let mut round = self
            .rendezvous
            .wait_until(lock_ignoring_poison(round), |round| {
                round.gathered.is_none()
            })?;

        round
            .contributions
            .insert(self.rank, (format!("{what} {} numbers", own.len()), own));

        if round.contributions.len() == self.count {
            match check_same_operation(&mut round.contributions) {
                Ok(all) => round.gathered = Some((Arc::new(all), self.count)),
                Err(fault) => self.rendezvous.abort_round(&mut round, fault),
            }

            changed.notify_all();
        }

        let mut round = self
            .rendezvous
            .wait_until(round, |round| round.gathered.is_some())?;
        let Some((all, takers)) = &mut round.gathered else {
            return Ok(Arc::default());
        };

        let all = Arc::clone(all);
        *takers -= 1;
        if *takers == 0 {
            round.gathered = None;
            changed.notify_all();
        }

        Ok(all)
    }

    fn read_f32(&self, at: DeviceAddress, count: usize) -> Result<Vec<f32>, DeviceError> {
        let memory = lock_ignoring_poison(&self.memory);
        let words = memory
            .read_bytes(at, count * size_of::<f32>())?
            .as_chunks()
            .0;
        Ok(words.iter().map(|word| f32::from_ne_bytes(*word)).collect())
    }

    fn write_f32(&self, at: DeviceAddress, values: &[f32]) -> Result<(), DeviceError> {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect();

        lock_ignoring_poison(&self.memory)
            .bytes_mut(at, bytes.len())?
            .copy_from_slice(&bytes);

        Ok(())
    }
}

/// The numbers of all ranks, if they called the same operation.
fn check_same_operation(
    brought: &mut HashMap<usize, (String, Vec<f32>)>,
) -> Result<Vec<Vec<f32>>, DeviceError> {
    let mut all: Vec<_> = brought.drain().collect();
    all.sort_unstable_by_key(|(rank, _)| *rank);
    let asked: Vec<_> = all.iter().map(|(_, (what, _))| what.as_str()).collect();

    if asked.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(DeviceError::failed(
            "ranks ask for different things",
            asked.join(", "),
        ));
    }

    Ok(all.into_iter().map(|(_, (_, values))| values).collect())
}

impl DeviceCommunicator for EmulatedCommunicator {
    fn all_reduce_sum(&self, at: DeviceAddress, count: usize) -> Result<(), DeviceError> {
        let all = self.all_gather_values("to sum", self.read_f32(at, count)?)?;
        let mut sums = vec![0.0; count];
        for values in &*all {
            sums.iter_mut()
                .zip(values)
                .for_each(|(sum, value)| *sum += value);
        }

        self.write_f32(at, &sums)
    }

    fn all_gather(&self, at: DeviceAddress, part: usize) -> Result<(), DeviceError> {
        let place = |rank: usize| at + (rank * part * size_of::<f32>()) as DeviceAddress;
        let all = self.all_gather_values("to gather", self.read_f32(place(self.rank), part)?)?;
        self.write_f32(at, &all.concat())
    }

    fn broadcast(&self, at: DeviceAddress, count: usize) -> Result<(), DeviceError> {
        let all = self.all_gather_values("to broadcast", self.read_f32(at, count)?)?;
        self.write_f32(at, &all[0])
    }

    fn wait_on_stream(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn abort(&self) {
        let why = DeviceError::failed("cannot reach other devices", "another rank is lost");
        self.rendezvous
            .abort_round(&mut lock_ignoring_poison(&self.rendezvous.round), why);
    }
}
