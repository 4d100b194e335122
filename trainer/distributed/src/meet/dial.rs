//! The part of the workers that dial: worker 0 until it answers, then the next one in the ring.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::host::Peers;
use super::{Hello, LANES, Patience, TICK, Word, failed, first_word};
use crate::error::{Error, Result};

/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(2);

/// Says hello to worker 0 until it answers: its name may appear late, and it may start last.
///
/// # Errors
/// If it does not answer in time, or refuses.
pub(super) fn dial(coordinator: &str, hello: &Hello, patience: &Patience<'_>) -> Result<Peers> {
    let waited = || format!("worker 0 at {coordinator}");
    loop {
        patience.check(waited)?;
        let Ok(stream) = connect(coordinator) else {
            std::thread::sleep(TICK);
            continue;
        };

        if Word::Hello(hello.clone()).write(&mut &stream).is_err() {
            std::thread::sleep(TICK);
            continue;
        }

        // Worker 0 answers when all are there.
        while is_silent(&stream) {
            patience.check(|| format!("the other workers, with {}", waited()))?;
        }

        match first_word(&stream) {
            Ok(Word::Table { rings, secret }) => return answered(stream, rings, secret),
            Ok(Word::Refused { why, again }) => {
                return Err(refused(hello, coordinator, &why, again));
            }
            // It ended before it could answer.
            Ok(_) | Err(_) => std::thread::sleep(TICK),
        }
    }
}

fn connect(to: &str) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for address in to.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TICK))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }

    Err(last)
}

/// Whether nothing came for a moment, and the connection is still there.
fn is_silent(stream: &TcpStream) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(stream.peek(&mut [0]), Err(error) if matches!(error.kind(), WouldBlock | TimedOut))
}

/// Worker 0 does not know by which address it was found.
fn answered(stream: TcpStream, mut rings: Vec<SocketAddr>, secret: u64) -> Result<Peers> {
    let found = stream
        .peer_addr()
        .map_err(|error| failed("know worker 0's address", &error))?;

    if let Some(first) = rings.first_mut() {
        first.set_ip(found.ip());
    }

    Ok((vec![(0, stream)], rings, secret))
}

fn refused(hello: &Hello, coordinator: &str, why: &str, again: bool) -> Error {
    let worker = hello.worker;
    let told = format!("worker 0 at {coordinator} refuses worker {worker}: {why}.");
    match again {
        true => Error::Lost(format!("{told} Run the same command again.")),
        false => Error::Config(format!("{told} Give all workers of a run the same file.")),
    }
}

/// Connections to the next worker in the ring, one for each lane.
///
/// # Errors
/// If it cannot be reached.
pub(super) fn neighbour(
    next: SocketAddr,
    (secret, worker): (u64, usize),
    patience: &Patience<'_>,
) -> Result<Vec<TcpStream>> {
    let mut lanes = Vec::with_capacity(LANES);
    while lanes.len() < LANES {
        patience.check(|| format!("the next worker at {next}"))?;
        let Ok(stream) = TcpStream::connect_timeout(&next, CONNECT) else {
            std::thread::sleep(TICK);
            continue;
        };

        let word = Word::Neighbour {
            secret,
            worker,
            lane: lanes.len(),
        };

        let said = stream
            .set_nodelay(true)
            .and_then(|()| word.write(&mut &stream));

        said.map_err(|error| failed("speak to the next worker", &error))?;
        lanes.push(stream);
    }

    Ok(lanes)
}
