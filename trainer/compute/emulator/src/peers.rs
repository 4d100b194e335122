//! Emulated devices of one process that reach one another, as cards do through NCCL.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use cnclip_compute::device::{Address, Fault, Peers};

use crate::memory::Memory;

/// Meetings that somebody waits in, by their invitation.
static MEETINGS: LazyLock<Mutex<HashMap<Vec<u8>, Arc<Meeting>>>> = LazyLock::new(Mutex::default);

/// Words that no other call gives.
pub(crate) fn invite() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_ne_bytes().to_vec()
}

/// Waits until all who were invited are here.
pub(crate) fn join(
    memory: Arc<Mutex<Memory>>,
    invitation: &[u8],
    (rank, count): (usize, usize),
) -> Result<Emulated, Fault> {
    let meeting = lock(&MEETINGS)
        .entry(invitation.to_vec())
        .or_default()
        .clone();

    let own = Emulated {
        memory,
        meeting,
        rank,
        count,
    };

    own.exchange("to meet", Vec::new())?;
    lock(&MEETINGS).remove(invitation);
    Ok(own)
}

/// A device's way to the others: each call waits for theirs.
#[derive(Debug)]
pub(crate) struct Emulated {
    memory: Arc<Mutex<Memory>>,
    meeting: Arc<Meeting>,
    rank: usize,
    count: usize,
}

/// Where devices lay down what the others take.
#[derive(Debug, Default)]
struct Meeting {
    round: Mutex<Round>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Round {
    /// What is asked for, and the numbers of each rank that came.
    brought: HashMap<usize, (String, Vec<f32>)>,
    /// What all brought, in their order, and how many have yet to take it.
    whole: Option<(Arc<Vec<Vec<f32>>>, usize)>,
    /// Why nobody comes any more.
    over: Option<Fault>,
}

impl Meeting {
    fn end(&self, round: &mut Round, why: Fault) {
        round.over.get_or_insert(why);
        self.changed.notify_all();
    }

    /// Waits until something is so, unless all is over.
    fn until<'a>(
        &self,
        round: MutexGuard<'a, Round>,
        so: impl Fn(&Round) -> bool,
    ) -> Result<MutexGuard<'a, Round>, Fault> {
        let round = self
            .changed
            .wait_while(round, |round| round.over.is_none() && !so(round));

        let round = round.unwrap_or_else(PoisonError::into_inner);
        round.over.clone().map_or(Ok(round), Err)
    }
}

impl Emulated {
    /// What every rank brings, in the order of the ranks.
    fn exchange(&self, what: &str, own: Vec<f32>) -> Result<Arc<Vec<Vec<f32>>>, Fault> {
        let Meeting { round, changed } = &*self.meeting;
        let mut round = self
            .meeting
            .until(lock(round), |round| round.whole.is_none())?;

        round
            .brought
            .insert(self.rank, (format!("{what} {} numbers", own.len()), own));

        if round.brought.len() == self.count {
            match agreed(&mut round.brought) {
                Ok(all) => round.whole = Some((Arc::new(all), self.count)),
                Err(fault) => self.meeting.end(&mut round, fault),
            }

            changed.notify_all();
        }

        let mut round = self.meeting.until(round, |round| round.whole.is_some())?;
        let Some((all, takers)) = &mut round.whole else {
            return Ok(Arc::default());
        };

        let all = Arc::clone(all);
        *takers -= 1;
        if *takers == 0 {
            round.whole = None;
            changed.notify_all();
        }

        Ok(all)
    }

    fn read(&self, at: Address, count: usize) -> Result<Vec<f32>, Fault> {
        let memory = lock(&self.memory);
        let words = memory.read(at, count * size_of::<f32>())?.as_chunks().0;
        Ok(words.iter().map(|word| f32::from_ne_bytes(*word)).collect())
    }

    fn write(&self, at: Address, values: &[f32]) -> Result<(), Fault> {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect();

        lock(&self.memory)
            .write(at, bytes.len())?
            .copy_from_slice(&bytes);

        Ok(())
    }
}

/// The numbers of all, if they ask for the same.
fn agreed(brought: &mut HashMap<usize, (String, Vec<f32>)>) -> Result<Vec<Vec<f32>>, Fault> {
    let mut all: Vec<_> = brought.drain().collect();
    all.sort_unstable_by_key(|(rank, _)| *rank);
    let asked: Vec<_> = all.iter().map(|(_, (what, _))| what.as_str()).collect();

    if asked.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(Fault::broken(
            "ranks ask for different things",
            asked.join(", "),
        ));
    }

    Ok(all.into_iter().map(|(_, (_, values))| values).collect())
}

impl Peers for Emulated {
    fn sum(&self, at: Address, count: usize) -> Result<(), Fault> {
        let all = self.exchange("to sum", self.read(at, count)?)?;
        let mut sums = vec![0.0; count];
        for values in &*all {
            sums.iter_mut()
                .zip(values)
                .for_each(|(sum, value)| *sum += value);
        }

        self.write(at, &sums)
    }

    fn gather(&self, at: Address, part: usize) -> Result<(), Fault> {
        let place = |rank: usize| at + (rank * part * size_of::<f32>()) as Address;
        let all = self.exchange("to gather", self.read(place(self.rank), part)?)?;
        self.write(at, &all.concat())
    }

    fn settle(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn give_up(&self) {
        let why = Fault::broken("cannot reach other devices", "another rank is lost");
        self.meeting.end(&mut lock(&self.meeting.round), why);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
