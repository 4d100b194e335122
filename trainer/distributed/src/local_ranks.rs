//! The ranks of this process at work: a thread for each, and one end for all. Never knows what the
//! work is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cnclip_crds::names::ENV_WORKER_INDEX;
use cnclip_crds::trainer_config::{DistributedConfig, RunIdentity};
use serde::Serialize;

use super::abort_state::{AbortState, LossCause, WorkerLost};
use super::control::ControlPlane;
use super::control_message::WorkerHello;
use super::link::create_link;
use super::rendezvous::{RendezvousLinks, run_rendezvous};
use super::ring::{RingCollective, RingLinks};
use super::{Communicator, RING_CHANNELS, RankTopology};
use crate::error::{Error, Origin, RankError, Result};
use cnclip_compute::digest::sha256;

/// Who a worker says that it is.
#[derive(Clone, Debug)]
pub struct JoinRequest<'a> {
    /// The run.
    pub run: &'a RunIdentity,
    /// SHA-256 of the configuration.
    pub config: String,
}

impl<'a> JoinRequest<'a> {
    /// A worker of a run; all must have been told the same.
    ///
    /// # Errors
    /// If what it was told cannot be written down.
    pub fn new(run: &'a RunIdentity, told: &impl Serialize) -> Result<Self> {
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
pub struct LocalRanks {
    communicators: Vec<Communicator>,
    control: Option<Arc<ControlPlane>>,
}

impl LocalRanks {
    /// As many ranks in this process as the configuration has devices, joined with those of the other
    /// workers. `stop` is asked while waiting for these.
    ///
    /// # Errors
    /// If the workers do not find each other.
    pub fn join_workers(
        config: &DistributedConfig,
        claim: &JoinRequest<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let workers = config.replicas as usize;
        let devices = config.devices as usize;
        if workers == 1 {
            return Ok(Self::single_process(devices));
        }

        let coordinator = config.coordinator.as_deref().unwrap_or_default();
        let worker = parse_worker_index(std::env::var(ENV_WORKER_INDEX).ok().as_deref(), workers)?;
        let run = claim.run;
        let hello = WorkerHello {
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

        let crew = Self::join_rendezvous(coordinator, hello, stop)?;
        tracing::info!(worker, workers, "all workers are here");
        Ok(crew)
    }

    /// The ranks of one of several workers.
    pub(super) fn join_rendezvous(
        coordinator: &str,
        hello: WorkerHello,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let fate = Arc::default();
        let seats = (hello.worker, hello.workers, hello.devices);
        let RendezvousLinks {
            control,
            channels: lanes,
        } = run_rendezvous(coordinator, hello, &fate, stop)?;
        Ok(Self::from_links(
            seats,
            lanes,
            fate,
            Some(Arc::new(control)),
        ))
    }

    /// So many ranks of this process alone.
    pub fn single_process(count: usize) -> Self {
        if count == 1 {
            return Self {
                communicators: vec![Communicator::single_rank()],
                control: None,
            };
        }

        Self::from_links((0, 1, count), Vec::new(), Arc::default(), None)
    }

    fn from_links(
        (worker, workers, devices): (usize, usize, usize),
        lanes: Vec<RingLinks>,
        fate: Arc<AbortState>,
        control: Option<Arc<ControlPlane>>,
    ) -> Self {
        let seat = |device| RankTopology {
            rank: worker * devices + device,
            world_size: workers * devices,
            local_world_size: devices,
        };

        let mut lanes = lanes.into_iter();
        let mut rings: Vec<_> = (0..RING_CHANNELS)
            .map(|_| rank_links(lanes.next(), devices))
            .collect();
        let world = |device: usize| {
            let mut ring = |lane: usize| {
                RingCollective::new(seat(device), rings[lane].next(), Arc::clone(&fate))
            };
            let (ring, gradients) = (Mutex::new(ring(0)), Mutex::new(Some(ring(1))));
            Communicator {
                topology: seat(device),
                abort_state: fate.clone(),
                control: control.clone(),
                ring,
                gradient_ring: gradients,
                device_group: OnceLock::new(),
            }
        };

        Self {
            communicators: (0..devices).map(world).collect(),
            control: control.clone(),
        }
    }

    /// Does the work of each rank in a thread of its own, that of the first in this one.
    ///
    /// # Errors
    /// What a rank of this process ended with, rather than what it heard of another one's end.
    pub fn run_ranks<E: RankError>(
        self,
        first: impl FnOnce(Arc<Communicator>) -> Result<(), E>,
        others: impl Fn(Arc<Communicator>) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let Self {
            communicators: worlds,
            control,
        } = self;
        let mut worlds = worlds.into_iter().map(Arc::new);
        let Some(own) = worlds.next() else {
            return Ok(());
        };

        let ends = std::thread::scope(|scope| {
            let others = &others;
            let rest: Vec<_> = worlds
                .map(|world| scope.spawn(move || run_rank(&world.clone(), || others(world))))
                .collect();

            let mut ends = vec![run_rank(&own.clone(), || first(own))];
            ends.extend(
                rest.into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|_| Ok(()))),
            );

            ends
        });

        if let Some(control) = control {
            control.close_connections();
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
pub fn each<T: Send>(count: usize, work: impl Fn(&Communicator) -> T + Sync) -> Result<Vec<T>> {
    let made = Mutex::new(Vec::new());
    let job = |world: Arc<Communicator>| {
        let done = work(&world);
        world.barrier()?;
        made.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((world.topology.rank, done));

        Ok(())
    };

    LocalRanks::single_process(count).run_ranks::<Error>(job, job)?;
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_by_key(|(rank, _)| *rank);
    Ok(made.into_iter().map(|(_, done)| done).collect())
}

/// Ends the work of one rank: if it ended badly by itself, the others hear of it.
fn run_rank<E: RankError>(
    world: &Communicator,
    work: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let rank = world.topology.rank;
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        // What it said went to standard error.
        Err(Error::Bug(format!("rank {rank} panicked")).into())
    });

    done.map_err(|error| {
        world
            .failure_reporter()
            .report_failure(error.origin(), &error.to_string());
        world.root_cause(error)
    })
}

impl Communicator {
    pub(super) fn failure_reporter(&self) -> FailureReporter {
        FailureReporter {
            topology: self.topology,
            abort_state: Arc::clone(&self.abort_state),
            control: self.control.clone(),
        }
    }

    /// Why this rank ended, if it heard of its own end, or a device that was given up for another's.
    fn root_cause<E: RankError>(&self, error: E) -> E {
        let own = self.abort_state.is_own_failure(self.topology.rank);
        match error.origin() {
            Origin::Lost if own => self
                .device_group
                .get()
                .and_then(|group| group.first_error())
                .map_or(error, |fault| Error::Device(fault).into()),
            Origin::Device if !own => self.check_peers().err().map_or(error, E::from),
            _ => error,
        }
    }
}

/// What lets the others hear of this rank.
#[derive(Debug)]
pub(super) struct FailureReporter {
    pub(super) topology: RankTopology,
    pub(super) abort_state: Arc<AbortState>,
    control: Option<Arc<ControlPlane>>,
}

impl FailureReporter {
    /// Says that this rank ended, and why.
    pub(super) fn report_failure(&self, origin: Origin, why: &str) {
        if matches!(origin, Origin::Lost | Origin::Interrupted) {
            return;
        }

        let RankTopology {
            rank,
            local_world_size: devices,
            ..
        } = self.topology;
        match &self.control {
            Some(control) => control.announce_failure(rank, why),
            None => {
                let how = LossCause::Ended(why.to_string());
                let ranks = rank..rank + 1;
                let step = self.abort_state.current_step();
                self.abort_state.record_loss(WorkerLost {
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
fn rank_links(lane: Option<RingLinks>, devices: usize) -> impl Iterator<Item = RingLinks> {
    let inner = if lane.is_some() { devices - 1 } else { devices };
    let (mut to, mut from): (Vec<_>, Vec<_>) = (0..inner).map(|_| create_link()).unzip();
    if let Some(RingLinks { next, previous }) = lane {
        to.push(next);
        from.push(previous);
    }

    // What the last one gives to is where the first one takes from.
    from.rotate_right(1);
    to.into_iter()
        .zip(from)
        .map(|(next, previous)| RingLinks { next, previous })
}

/// The number of this worker.
fn parse_worker_index(told: Option<&str>, workers: usize) -> Result<usize> {
    let number = told
        .and_then(|told| told.parse().ok())
        .filter(|worker| *worker < workers);

    number.ok_or_else(|| {
        let told = told.map_or("not set".into(), |told| format!("{told:?}"));
        Error::Config(format!(
            "{ENV_WORKER_INDEX} is {told}; with {workers} workers it must be 0 to {}. An Indexed Job sets it; by hand, \
             set it for each worker.",
            workers - 1
        ))
    })
}
