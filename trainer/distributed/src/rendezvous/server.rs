//! Worker 0's part: takes who belongs, refuses who does not, answers when all are there. Listens to
//! each newcomer in a thread of its own, so that a silent one keeps nobody waiting.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};

use super::{
    ControlMessage, RENDEZVOUS_POLL_INTERVAL, RING_CHANNELS, RendezvousDeadline, WorkerHello,
    bind_any_address, network_error, read_first_message,
};
use crate::error::{Error, Result};

/// The connections to the others, where each one's ring begins, and the secret of the ring.
pub(super) type RendezvousPeers = (Vec<(usize, TcpStream)>, Vec<SocketAddr>, u64);

/// Waits for all others.
///
/// # Errors
/// If the port of `coordinator` cannot be opened, or not all come in time.
pub(super) fn serve_rendezvous(
    coordinator: &str,
    own: &WorkerHello,
    patience: &RendezvousDeadline<'_>,
) -> Result<RendezvousPeers> {
    let port = coordinator
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());

    let port = port.ok_or_else(|| {
        Error::Config(format!(
            "world.coordinator is {coordinator}; it must be host:port."
        ))
    })?;

    let door = bind_any_address(port).map_err(|error| {
        Error::Config(format!(
            "cannot await the other workers on port {port}: {error}. Set the port of world.coordinator to \
             a free one."
        ))
    })?;

    let (come, newcomers) = channel();
    let mut here: BTreeMap<usize, (TcpStream, SocketAddr)> = BTreeMap::new();
    while {
        // Who left again is still missing.
        here.retain(|_, (stream, _)| is_connected(stream));
        here.len() + 1 < own.workers
    } {
        patience.check_deadline(|| missing_workers(own.workers, &here))?;
        accept_workers(&door, &come);
        let Ok((hello, stream)) = newcomers.recv_timeout(RENDEZVOUS_POLL_INTERVAL) else {
            continue;
        };
        match check_hello(own, &hello, |worker| here.contains_key(&worker)) {
            Some(refused) => send_refusal(&hello, &stream, refused),
            None => {
                let Ok(from) = stream.peer_addr() else {
                    continue;
                };

                let ring = SocketAddr::new(from.ip().to_canonical(), hello.port);
                here.insert(hello.worker, (stream, ring));
            }
        }
    }

    let own_ring = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), own.port);
    let rings: Vec<_> = std::iter::once(own_ring)
        .chain(here.values().map(|(_, ring)| *ring))
        .collect();

    let secret = RandomState::new().hash_one(own.port);
    let table = ControlMessage::Table {
        rings: rings.clone(),
        secret,
    };

    for (worker, (stream, _)) in &here {
        let told = table.write_to(&mut &*stream);
        told.map_err(|error| network_error(&format!("answer worker {worker}"), &error))?;
    }

    Ok((
        here.into_iter()
            .map(|(worker, (stream, _))| (worker, stream))
            .collect(),
        rings,
        secret,
    ))
}

fn missing_workers(workers: usize, here: &BTreeMap<usize, (TcpStream, SocketAddr)>) -> String {
    let absent = (1..workers).filter(|worker| !here.contains_key(worker));
    let absent: Vec<_> = absent.map(|worker| worker.to_string()).collect();
    format!("worker {}", absent.join(", "))
}

/// Listens to whoever knocked.
fn accept_workers(door: &TcpListener, come: &Sender<(WorkerHello, TcpStream)>) {
    while let Ok((stream, from)) = door.accept() {
        let come = come.clone();
        let listen = move || match read_first_message(&stream) {
            // The run may have begun without it: then the connection closes here.
            Ok(ControlMessage::Hello(hello)) => drop(come.send((hello, stream))),
            Ok(_) | Err(_) => tracing::debug!("{from} said nothing that a worker says"),
        };

        // Without a thread the newcomer is dropped, and comes again.
        let _ = std::thread::Builder::new()
            .name("greet".into())
            .spawn(listen);
    }
}

/// Why a worker is not taken, and whether it may try again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JoinRefusal {
    pub(super) reason: String,
    pub(super) retryable: bool,
}

/// Whether a worker does not belong to this one's run, or is here already.
pub(super) fn check_hello(
    own: &WorkerHello,
    its: &WorkerHello,
    present: impl Fn(usize) -> bool,
) -> Option<JoinRefusal> {
    let rows = [
        ("run", &own.run, &its.run, false),
        ("stage", &own.stage, &its.stage, false),
        (
            "attempt",
            &own.attempt.to_string(),
            &its.attempt.to_string(),
            true,
        ),
        (
            "number of workers",
            &own.workers.to_string(),
            &its.workers.to_string(),
            false,
        ),
        (
            "number of devices",
            &own.devices.to_string(),
            &its.devices.to_string(),
            false,
        ),
        ("version of cnclip", &own.version, &its.version, false),
        ("configuration", &own.config, &its.config, false),
    ];

    let other = rows.into_iter().find(|(_, own, its, _)| own != its);
    if let Some((what, own, its, again)) = other {
        let why = format!("it has another {what} than worker 0, {its} and not {own}");
        return Some(JoinRefusal {
            reason: why,
            retryable: again,
        });
    }

    let worker = its.worker;
    if worker == 0 || worker >= own.workers {
        let why = format!("its number must be 1 to {}", own.workers - 1);
        return Some(JoinRefusal {
            reason: why,
            retryable: false,
        });
    }

    let why = format!("another worker {worker} is here already");
    present(worker).then_some(JoinRefusal {
        reason: why,
        retryable: true,
    })
}

fn send_refusal(
    hello: &WorkerHello,
    mut stream: &TcpStream,
    JoinRefusal {
        reason: why,
        retryable: again,
    }: JoinRefusal,
) {
    tracing::warn!(
        worker = hello.worker,
        run = hello.run,
        "a worker was refused: {why}"
    );

    // Whether it still listens is its own affair.
    let _ = ControlMessage::Refused { why, again }.write_to(&mut stream);
}

/// Whether the other end is still there: it says nothing until it is answered.
fn is_connected(stream: &TcpStream) -> bool {
    let look = || {
        stream.set_nonblocking(true)?;
        let found = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        found
    };

    matches!(look(), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// The connections of the worker before in the ring, one for each lane.
///
/// # Errors
/// If they do not come.
pub(super) fn accept_previous_worker(
    door: &TcpListener,
    (secret, worker): (u64, usize),
    patience: &RendezvousDeadline<'_>,
) -> Result<Vec<TcpStream>> {
    let mut lanes: [Option<TcpStream>; RING_CHANNELS] = Default::default();
    while lanes.iter().any(Option::is_none) {
        patience.check_deadline(|| format!("the connection of worker {worker}"))?;
        let Ok((stream, _)) = door.accept() else {
            std::thread::sleep(RENDEZVOUS_POLL_INTERVAL);
            continue;
        };

        if let Ok(ControlMessage::Neighbour {
            secret: said,
            worker: who,
            lane,
        }) = read_first_message(&stream)
            && (said, who) == (secret, worker)
            && lane < RING_CHANNELS
        {
            lanes[lane] = Some(stream);
        }
    }

    Ok(lanes.into_iter().flatten().collect())
}
