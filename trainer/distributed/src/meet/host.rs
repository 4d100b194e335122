//! Worker 0's part: takes who belongs, refuses who does not, answers when all are there. Listens to
//! each newcomer in a thread of its own, so that a silent one keeps nobody waiting.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};

use super::{Hello, LANES, Patience, TICK, Word, bind, failed, first_word};
use crate::error::{Error, Result};

/// The connections to the others, where each one's ring begins, and the secret of the ring.
pub(super) type Peers = (Vec<(usize, TcpStream)>, Vec<SocketAddr>, u64);

/// Waits for all others.
///
/// # Errors
/// If the port of `coordinator` cannot be opened, or not all come in time.
pub(super) fn host(coordinator: &str, own: &Hello, patience: &Patience<'_>) -> Result<Peers> {
    let port = coordinator
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());

    let port = port.ok_or_else(|| {
        Error::Config(format!(
            "world.coordinator is {coordinator}; it must be host:port."
        ))
    })?;

    let door = bind(port).map_err(|error| {
        Error::Config(format!(
            "cannot await the other workers on port {port}: {error}. Set the port of world.coordinator to \
             a free one."
        ))
    })?;

    let (come, newcomers) = channel();
    let mut here: BTreeMap<usize, (TcpStream, SocketAddr)> = BTreeMap::new();
    while {
        // Who left again is still missing.
        here.retain(|_, (stream, _)| connected(stream));
        here.len() + 1 < own.workers
    } {
        patience.check(|| missing(own.workers, &here))?;
        greet(&door, &come);
        let Ok((hello, stream)) = newcomers.recv_timeout(TICK) else {
            continue;
        };
        match refusal(own, &hello, |worker| here.contains_key(&worker)) {
            Some(refused) => turn_away(&hello, &stream, refused),
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
    let table = Word::Table {
        rings: rings.clone(),
        secret,
    };

    for (worker, (stream, _)) in &here {
        let told = table.write(&mut &*stream);
        told.map_err(|error| failed(&format!("answer worker {worker}"), &error))?;
    }

    Ok((
        here.into_iter()
            .map(|(worker, (stream, _))| (worker, stream))
            .collect(),
        rings,
        secret,
    ))
}

fn missing(workers: usize, here: &BTreeMap<usize, (TcpStream, SocketAddr)>) -> String {
    let absent = (1..workers).filter(|worker| !here.contains_key(worker));
    let absent: Vec<_> = absent.map(|worker| worker.to_string()).collect();
    format!("worker {}", absent.join(", "))
}

/// Listens to whoever knocked.
fn greet(door: &TcpListener, come: &Sender<(Hello, TcpStream)>) {
    while let Ok((stream, from)) = door.accept() {
        let come = come.clone();
        let listen = move || match first_word(&stream) {
            // The run may have begun without it: then the connection closes here.
            Ok(Word::Hello(hello)) => drop(come.send((hello, stream))),
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
pub(super) struct Refusal {
    pub(super) why: String,
    pub(super) again: bool,
}

/// Whether a worker does not belong to this one's run, or is here already.
pub(super) fn refusal(
    own: &Hello,
    its: &Hello,
    present: impl Fn(usize) -> bool,
) -> Option<Refusal> {
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
        return Some(Refusal { why, again });
    }

    let worker = its.worker;
    if worker == 0 || worker >= own.workers {
        let why = format!("its number must be 1 to {}", own.workers - 1);
        return Some(Refusal { why, again: false });
    }

    let why = format!("another worker {worker} is here already");
    present(worker).then_some(Refusal { why, again: true })
}

fn turn_away(hello: &Hello, mut stream: &TcpStream, Refusal { why, again }: Refusal) {
    tracing::warn!(
        worker = hello.worker,
        run = hello.run,
        "a worker was refused: {why}"
    );

    // Whether it still listens is its own affair.
    let _ = Word::Refused { why, again }.write(&mut stream);
}

/// Whether the other end is still there: it says nothing until it is answered.
fn connected(stream: &TcpStream) -> bool {
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
pub(super) fn neighbour(
    door: &TcpListener,
    (secret, worker): (u64, usize),
    patience: &Patience<'_>,
) -> Result<Vec<TcpStream>> {
    let mut lanes: [Option<TcpStream>; LANES] = Default::default();
    while lanes.iter().any(Option::is_none) {
        patience.check(|| format!("the connection of worker {worker}"))?;
        let Ok((stream, _)) = door.accept() else {
            std::thread::sleep(TICK);
            continue;
        };

        if let Ok(Word::Neighbour {
            secret: said,
            worker: who,
            lane,
        }) = first_word(&stream)
            && (said, who) == (secret, worker)
            && lane < LANES
        {
            lanes[lane] = Some(stream);
        }
    }

    Ok(lanes.into_iter().flatten().collect())
}
