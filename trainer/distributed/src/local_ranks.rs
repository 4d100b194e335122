//! The ranks of this process: a thread for each, and one result for all. Never knows what the work is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use cnclip_compute::collective::Collective;
use cnclip_compute::digest::sha256;
use cnclip_compute::sync::{ignore_poison, lock_ignoring_poison};
use cnclip_crds::names::{ENV_RENDEZVOUS_SECRET, ENV_WORKER_INDEX};
use cnclip_crds::trainer_config::{DistributedConfig, RunIdentity};
use serde::Serialize;

use crate::abort_state::AbortState;
use crate::authentication::Authenticator;
use crate::communicator::{Communicator, CommunicatorParts};
use crate::control::ControlPlane;
use crate::control_message::WorkerHello;
use crate::error::{Error, Origin, RankError, Result};
use crate::link::create_link;
use crate::rendezvous::{RendezvousLinks, StopRequest, run_rendezvous};
use crate::ring::{RingCollective, RingLinks};
use crate::topology::{RING_CHANNELS, WorkerTopology};

/// What a worker identifies itself with at the rendezvous.
#[derive(Clone, Debug)]
pub struct JoinRequest<'a> {
    /// The run.
    pub run: &'a RunIdentity,
    /// SHA-256 of the configuration.
    pub config: String,
}

impl<'a> JoinRequest<'a> {
    /// A worker of a run, all of which must have an equal configuration.
    ///
    /// # Errors
    /// If the configuration cannot be serialized.
    pub fn new(run: &'a RunIdentity, config: &impl Serialize) -> Result<Self> {
        let json = serde_json::to_vec(config).map_err(|error| {
            Error::Bug(format!(
                "a configuration cannot be written as JSON: {error}"
            ))
        })?;

        Ok(Self {
            run,
            config: sha256(&json),
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
    /// One rank for each device of this process, joined with those of the other workers.
    ///
    /// # Errors
    /// If the workers do not find each other.
    pub fn join_workers(config: &DistributedConfig, request: &JoinRequest<'_>) -> Result<Self> {
        let workers = config.replicas as usize;
        let devices = config.devices as usize;
        if workers == 1 {
            return Ok(Self::single_process(devices));
        }

        let coordinator = config.coordinator.as_deref().unwrap_or_default();
        let worker_index = std::env::var(ENV_WORKER_INDEX).ok();
        let worker = parse_worker_index(worker_index.as_deref(), workers)?;
        let secret = std::env::var(ENV_RENDEZVOUS_SECRET).ok();
        let authenticator = Authenticator::from_variable(secret.as_deref(), workers)?;
        let run = request.run;
        // By hand a run has a name alone.
        let run_id = if run.uid.is_empty() {
            &run.name
        } else {
            &run.uid
        };

        let hello = WorkerHello {
            version: env!("CARGO_PKG_VERSION").into(),
            run: run_id.clone(),
            stage: run.stage.clone(),
            attempt: run.attempt,
            workers,
            devices,
            config: request.config.clone(),
            worker,
            port: 0,
        };

        tracing::info!(worker, workers, coordinator, "rendezvous started");
        // A signal ends the process while there is no state to save.
        let never = || false;
        let ranks = Self::join_rendezvous(coordinator, hello, &authenticator, &never)?;
        tracing::info!(worker, workers, "rendezvous complete");
        Ok(ranks)
    }

    /// The ranks of one of several workers.
    pub(super) fn join_rendezvous(
        coordinator: &str,
        hello: WorkerHello,
        authenticator: &Authenticator,
        stop: StopRequest<'_>,
    ) -> Result<Self> {
        let abort_state = Arc::default();
        let topology = hello.topology();
        let RendezvousLinks { control, channels } =
            run_rendezvous(coordinator, hello, authenticator, &abort_state, stop)?;
        let control = Some(Arc::new(control));

        Ok(Self::from_links(topology, channels, abort_state, control))
    }

    /// Ranks of this process alone.
    pub fn single_process(count: usize) -> Self {
        // Nothing to link: a single rank has no ring, and its collectives return at once.
        if count == 1 {
            return Self {
                communicators: vec![Communicator::single_rank()],
                control: None,
            };
        }

        let topology = WorkerTopology {
            worker: 0,
            workers: 1,
            devices: count,
        };

        Self::from_links(topology, Vec::new(), Arc::default(), None)
    }

    /// `channels` are the links to other workers, none where there are none.
    fn from_links(
        topology: WorkerTopology,
        channels: Vec<RingLinks>,
        abort_state: Arc<AbortState>,
        control: Option<Arc<ControlPlane>>,
    ) -> Self {
        let mut channels = channels.into_iter();
        let mut rings: [_; RING_CHANNELS] =
            std::array::from_fn(|_| rank_links(channels.next(), topology.devices));

        let communicator = |device: usize| {
            let topology = topology.rank_topology(device);
            let ticks = Arc::default();
            let [ring, gradient_ring] = rings.each_mut().map(|links| {
                let links = links.next();
                RingCollective::new(
                    topology,
                    links,
                    Arc::clone(&abort_state),
                    Arc::clone(&ticks),
                )
            });

            Communicator::from_parts(CommunicatorParts {
                topology,
                abort_state: Arc::clone(&abort_state),
                control: control.clone(),
                ring,
                gradient_ring,
                ticks,
            })
        };

        Self {
            communicators: (0..topology.devices).map(communicator).collect(),
            control,
        }
    }

    /// Runs each rank in a thread of its own, the first in this one. Returns when all have ended.
    ///
    /// # Errors
    /// The error of a rank of this process; rather one that it caused than one that a peer's failure
    /// caused.
    pub fn run_ranks<E: RankError>(
        self,
        first: impl FnOnce(Arc<Communicator>) -> Result<(), E>,
        others: impl Fn(Arc<Communicator>) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let Self {
            communicators,
            control,
        } = self;

        let mut communicators = communicators.into_iter().map(Arc::new);
        let Some(first_communicator) = communicators.next() else {
            return Ok(());
        };

        let results = std::thread::scope(|scope| {
            let others = &others;
            let threads: Vec<_> = communicators
                .map(|communicator| {
                    scope.spawn(move || run_rank(&communicator.clone(), || others(communicator)))
                })
                .collect();

            let mut results = vec![run_rank(&first_communicator.clone(), || {
                first(first_communicator)
            })];

            // `run_rank` catches panics, so joining does not fail.
            results.extend(
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or(Ok(()))),
            );

            results
        });

        // Only now: while one rank runs, its peers need this worker's heartbeat.
        if let Some(control) = control {
            control.close_connections();
        }

        most_informative_result(results)
    }
}

/// The result of the process: an error that a rank of it caused, else one that a peer's failure caused.
fn most_informative_result<E: RankError>(results: Vec<Result<(), E>>) -> Result<(), E> {
    let is_caused_by_peer = |result: &Result<(), E>| {
        result
            .as_ref()
            .is_err_and(|error| error.origin() == Origin::PeerFailure)
    };

    // The root cause decides the exit code: a rank that ran out of memory, not those that then missed it.
    let (caused_by_peer, local): (Vec<_>, Vec<_>) =
        results.into_iter().partition(is_caused_by_peer);
    local
        .into_iter()
        .chain(caused_by_peer)
        .find(Result::is_err)
        .unwrap_or(Ok(()))
}

/// The results of the same work on each of `count` ranks in threads of this process, in the order of the
/// ranks.
///
/// # Errors
/// If a rank fails.
///
/// # Examples
/// ```
/// use cnclip_compute::collective::Collective;
/// use cnclip_distributed::run_on_ranks;
///
/// let gathered = run_on_ranks(4, |communicator| {
///     let mut ranks = [0u64; 4];
///     ranks[communicator.rank()] = communicator.rank() as u64;
///     communicator.all_gather(&mut ranks);
///     ranks
/// })?;
///
/// assert_eq!(gathered, [[0, 1, 2, 3]; 4]);
/// # Ok::<(), cnclip_distributed::Error>(())
/// ```
pub fn run_on_ranks<T: Send>(
    count: usize,
    work: impl Fn(&Communicator) -> T + Sync,
) -> Result<Vec<T>> {
    let results = Mutex::new(Vec::new());
    // The barrier turns a failure during `work` into an error, which collectives themselves do not return.
    let job = |communicator: Arc<Communicator>| {
        let result = work(&communicator);
        communicator.barrier()?;
        lock_ignoring_poison(&results).push((communicator.rank(), result));

        Ok(())
    };

    LocalRanks::single_process(count).run_ranks::<Error>(job, job)?;
    let mut results = ignore_poison(results.into_inner());
    results.sort_by_key(|(rank, _)| *rank);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// Runs one rank; an error that it caused is reported to the others.
fn run_rank<E: RankError>(
    communicator: &Communicator,
    work: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    // A panic that ended this thread alone would leave the others waiting for it. What the work left half
    // done is not looked at again: the process ends.
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        // The panic hook has printed its message.
        let rank = communicator.rank();
        Err(Error::Bug(format!("rank {rank} panicked")).into())
    });

    result.map_err(|error| {
        communicator
            .failure_reporter()
            .report_failure(error.origin(), &error.to_string());
        communicator.root_cause(error)
    })
}

/// The links of each rank of this process in one channel of the ring: in from the previous worker, through
/// all ranks here, and out to the next worker; or in a circle where there is no other worker.
fn rank_links(
    to_other_workers: Option<RingLinks>,
    devices: usize,
) -> impl Iterator<Item = RingLinks> {
    let inner_links = if to_other_workers.is_some() {
        devices - 1
    } else {
        devices
    };

    let (mut senders, mut receivers): (Vec<_>, Vec<_>) =
        (0..inner_links).map(|_| create_link()).unzip();
    if let Some(RingLinks { next, previous }) = to_other_workers {
        senders.push(next);
        receivers.push(previous);
    }

    // Sender i belongs to rank i, and its other end to rank i + 1; the last one's to rank 0.
    receivers.rotate_right(1);
    senders
        .into_iter()
        .zip(receivers)
        .map(|(next, previous)| RingLinks { next, previous })
}

/// The index of this worker.
fn parse_worker_index(value: Option<&str>, workers: usize) -> Result<usize> {
    let index = value
        .and_then(|value| value.parse().ok())
        .filter(|worker| *worker < workers);

    index.ok_or_else(|| {
        let value = value.map_or("not set".into(), |value| format!("{value:?}"));
        Error::Config(format!(
            "{ENV_WORKER_INDEX} is {value}; with {workers} workers it must be 0 to {}. An Indexed Job sets it; by hand, \
             set it for each worker.",
            workers - 1
        ))
    })
}
