//! The ranks of this process at work: a thread for each, and one end for all. Never knows what the
//! work is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cnclip_crds::names::ENV_WORKER;
use cnclip_crds::run_config::{Identity, WorldConfig};
use serde::Serialize;

use super::control::Control;
use super::fate::{Fate, How, Loss};
use super::link::channel;
use super::meet::{Met, meet};
use super::ring::{Links, Ring};
use super::word::Hello;
use super::{LANES, Seat, World};
use crate::error::{Error, Origin, RankError, Result};
use cnclip_compute::digest::sha256;

/// Who a worker says that it is.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The run.
    pub run: &'a Identity,
    /// SHA-256 of the configuration.
    pub config: String,
}

impl<'a> Claim<'a> {
    /// A worker of a run; all must have been told the same.
    ///
    /// # Errors
    /// If what it was told cannot be written down.
    pub fn new(run: &'a Identity, told: &impl Serialize) -> Result<Self> {
        let told = serde_json::to_vec(told).map_err(|error| {
            Error::Bug(format!(
                "a configuration cannot be written as JSON: {error}"
            ))
        })?;

        Ok(Self {
            run,
            config: sha256(&told),
        })
    }
}

/// The ranks of this process.
#[derive(Debug)]
pub struct Crew {
    worlds: Vec<World>,
    control: Option<Arc<Control>>,
}

impl Crew {
    /// As many ranks in this process as the configuration has devices, joined with those of the other
    /// workers. `stop` is asked while waiting for these.
    ///
    /// # Errors
    /// If the workers do not find each other.
    pub fn join(config: &WorldConfig, claim: &Claim<'_>, stop: &dyn Fn() -> bool) -> Result<Self> {
        let workers = config.replicas as usize;
        let devices = config.devices as usize;
        if workers == 1 {
            return Ok(Self::threads(devices));
        }

        let coordinator = config.coordinator.as_deref().unwrap_or_default();
        let worker = worker(std::env::var(ENV_WORKER).ok().as_deref(), workers)?;
        let run = claim.run;
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            run: if run.uid.is_empty() {
                &run.name
            } else {
                &run.uid
            }
            .clone(),
            stage: run.stage.clone(),
            attempt: run.attempt,
            workers,
            devices,
            config: claim.config.clone(),
            worker,
            port: 0,
        };

        tracing::info!(
            worker,
            workers,
            coordinator,
            "waiting for the other workers"
        );

        let crew = Self::meet(coordinator, hello, stop)?;
        tracing::info!(worker, workers, "all workers are here");
        Ok(crew)
    }

    /// The ranks of one of several workers.
    pub(super) fn meet(coordinator: &str, hello: Hello, stop: &dyn Fn() -> bool) -> Result<Self> {
        let fate = Arc::default();
        let seats = (hello.worker, hello.workers, hello.devices);
        let Met { control, lanes } = meet(coordinator, hello, &fate, stop)?;
        Ok(Self::of(seats, lanes, fate, Some(Arc::new(control))))
    }

    /// So many ranks of this process alone.
    pub fn threads(count: usize) -> Self {
        if count == 1 {
            return Self {
                worlds: vec![World::alone()],
                control: None,
            };
        }

        Self::of((0, 1, count), Vec::new(), Arc::default(), None)
    }

    fn of(
        (worker, workers, devices): (usize, usize, usize),
        lanes: Vec<Links>,
        fate: Arc<Fate>,
        control: Option<Arc<Control>>,
    ) -> Self {
        let seat = |device| Seat {
            rank: worker * devices + device,
            count: workers * devices,
            devices,
        };

        let mut lanes = lanes.into_iter();
        let mut rings: Vec<_> = (0..LANES).map(|_| links(lanes.next(), devices)).collect();
        let world = |device: usize| {
            let mut ring =
                |lane: usize| Ring::new(seat(device), rings[lane].next(), Arc::clone(&fate));
            let (ring, gradients) = (Mutex::new(ring(0)), Mutex::new(Some(ring(1))));
            World {
                seat: seat(device),
                fate: fate.clone(),
                control: control.clone(),
                ring,
                gradients,
                group: OnceLock::new(),
            }
        };

        Self {
            worlds: (0..devices).map(world).collect(),
            control: control.clone(),
        }
    }

    /// Does the work of each rank in a thread of its own, that of the first in this one.
    ///
    /// # Errors
    /// What a rank of this process ended with, rather than what it heard of another one's end.
    pub fn work<E: RankError>(
        self,
        first: impl FnOnce(Arc<World>) -> Result<(), E>,
        others: impl Fn(Arc<World>) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let Self { worlds, control } = self;
        let mut worlds = worlds.into_iter().map(Arc::new);
        let Some(own) = worlds.next() else {
            return Ok(());
        };

        let ends = std::thread::scope(|scope| {
            let others = &others;
            let rest: Vec<_> = worlds
                .map(|world| scope.spawn(move || end(&world.clone(), || others(world))))
                .collect();

            let mut ends = vec![end(&own.clone(), || first(own))];
            ends.extend(
                rest.into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|_| Ok(()))),
            );

            ends
        });

        if let Some(control) = control {
            control.close();
        }

        let heard = |end: &Result<(), E>| {
            end.as_ref()
                .is_err_and(|error| error.origin() == Origin::Lost)
        };
        let (heard, own): (Vec<_>, Vec<_>) = ends.into_iter().partition(heard);
        own.into_iter()
            .chain(heard)
            .find(Result::is_err)
            .unwrap_or(Ok(()))
    }
}

/// What each of `count` ranks in threads of this process makes of the same work, in the order of the ranks.
///
/// # Errors
/// What a rank ended with.
pub fn each<T: Send>(count: usize, work: impl Fn(&World) -> T + Sync) -> Result<Vec<T>> {
    let made = Mutex::new(Vec::new());
    let job = |world: Arc<World>| {
        let done = work(&world);
        world.meet()?;
        made.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((world.seat.rank, done));

        Ok(())
    };

    Crew::threads(count).work::<Error>(job, job)?;
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_by_key(|(rank, _)| *rank);
    Ok(made.into_iter().map(|(_, done)| done).collect())
}

/// Ends the work of one rank: if it ended badly by itself, the others hear of it.
fn end<E: RankError>(world: &World, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let rank = world.seat.rank;
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        // What it said went to standard error.
        Err(Error::Bug(format!("rank {rank} panicked")).into())
    });

    done.map_err(|error| {
        world.own().end(error.origin(), &error.to_string());
        world.reason(error)
    })
}

impl World {
    pub(super) fn own(&self) -> Own {
        Own {
            seat: self.seat,
            fate: Arc::clone(&self.fate),
            control: self.control.clone(),
        }
    }

    /// Why this rank ended, if it heard of its own end, or a device that was given up for another's.
    fn reason<E: RankError>(&self, error: E) -> E {
        let own = self.fate.ended(self.seat.rank);
        match error.origin() {
            Origin::Lost if own => self
                .group
                .get()
                .and_then(|group| group.fault())
                .map_or(error, |fault| Error::Device(fault).into()),
            Origin::Device if !own => self.check().err().map_or(error, E::from),
            _ => error,
        }
    }
}

/// What lets the others hear of this rank.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) seat: Seat,
    pub(super) fate: Arc<Fate>,
    control: Option<Arc<Control>>,
}

impl Own {
    /// Says that this rank ended, and why.
    pub(super) fn end(&self, origin: Origin, why: &str) {
        if matches!(origin, Origin::Lost | Origin::Interrupted) {
            return;
        }

        let Seat { rank, devices, .. } = self.seat;
        match &self.control {
            Some(control) => control.end(rank, why),
            None => {
                let how = How::Ended(why.to_string());
                let ranks = rank..rank + 1;
                let step = self.fate.step();
                self.fate.lose(Loss {
                    worker: rank / devices,
                    ranks,
                    step,
                    how,
                });
            }
        }
    }
}

/// The links of each rank of this process in one lane: from the worker before or the last rank here,
/// through all of them, to the next worker or the first rank.
fn links(lane: Option<Links>, devices: usize) -> impl Iterator<Item = Links> {
    let inner = if lane.is_some() { devices - 1 } else { devices };
    let (mut to, mut from): (Vec<_>, Vec<_>) = (0..inner).map(|_| channel()).unzip();
    if let Some(Links { next, previous }) = lane {
        to.push(next);
        from.push(previous);
    }

    // What the last one gives to is where the first one takes from.
    from.rotate_right(1);
    to.into_iter()
        .zip(from)
        .map(|(next, previous)| Links { next, previous })
}

/// The number of this worker.
fn worker(told: Option<&str>, workers: usize) -> Result<usize> {
    let number = told
        .and_then(|told| told.parse().ok())
        .filter(|worker| *worker < workers);

    number.ok_or_else(|| {
        let told = told.map_or("not set".into(), |told| format!("{told:?}"));
        Error::Config(format!(
            "{ENV_WORKER} is {told}; with {workers} workers it must be 0 to {}. An Indexed Job sets it; by hand, \
             set it for each worker.",
            workers - 1
        ))
    })
}
