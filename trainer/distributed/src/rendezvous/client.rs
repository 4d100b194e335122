//! The part of the workers that dial: worker 0 until it answers, then the next one in the ring.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::server::RendezvousPeers;
use super::{
    ControlMessage, RENDEZVOUS_POLL_INTERVAL, RING_CHANNELS, RendezvousDeadline, WorkerHello,
    network_error, read_first_message,
};
use crate::error::{Error, Result};

/// How long one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Says hello to worker 0 until it answers: its name may appear late, and it may start last.
///
/// # Errors
/// If it does not answer in time, or refuses.
pub(super) fn connect_to_coordinator(
    coordinator: &str,
    hello: &WorkerHello,
    patience: &RendezvousDeadline<'_>,
) -> Result<RendezvousPeers> {
    let waited = || format!("worker 0 at {coordinator}");
    loop {
        patience.check_deadline(waited)?;
        let Ok(stream) = open_connection(coordinator) else {
            std::thread::sleep(RENDEZVOUS_POLL_INTERVAL);
            continue;
        };

        if ControlMessage::Hello(hello.clone())
            .write_to(&mut &stream)
            .is_err()
        {
            std::thread::sleep(RENDEZVOUS_POLL_INTERVAL);
            continue;
        }

        // Worker 0 answers when all are there.
        while is_silent(&stream) {
            patience.check_deadline(|| format!("the other workers, with {}", waited()))?;
        }

        match read_first_message(&stream) {
            Ok(ControlMessage::Table { rings, secret }) => {
                return peers_from_answer(stream, rings, secret);
            }
            Ok(ControlMessage::Refused { why, again }) => {
                return Err(refusal_error(hello, coordinator, &why, again));
            }
            // It ended before it could answer.
            Ok(_) | Err(_) => std::thread::sleep(RENDEZVOUS_POLL_INTERVAL),
        }
    }
}

fn open_connection(to: &str) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for address in to.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(RENDEZVOUS_POLL_INTERVAL))?;
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
fn peers_from_answer(
    stream: TcpStream,
    mut rings: Vec<SocketAddr>,
    secret: u64,
) -> Result<RendezvousPeers> {
    let found = stream
        .peer_addr()
        .map_err(|error| network_error("know worker 0's address", &error))?;

    if let Some(first) = rings.first_mut() {
        first.set_ip(found.ip());
    }

    Ok((vec![(0, stream)], rings, secret))
}

fn refusal_error(hello: &WorkerHello, coordinator: &str, why: &str, again: bool) -> Error {
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
pub(super) fn connect_next_worker(
    next: SocketAddr,
    (secret, worker): (u64, usize),
    patience: &RendezvousDeadline<'_>,
) -> Result<Vec<TcpStream>> {
    let mut lanes = Vec::with_capacity(RING_CHANNELS);
    while lanes.len() < RING_CHANNELS {
        patience.check_deadline(|| format!("the next worker at {next}"))?;
        let Ok(stream) = TcpStream::connect_timeout(&next, CONNECT_TIMEOUT) else {
            std::thread::sleep(RENDEZVOUS_POLL_INTERVAL);
            continue;
        };

        let word = ControlMessage::Neighbour {
            secret,
            worker,
            lane: lanes.len(),
        };

        let said = stream
            .set_nodelay(true)
            .and_then(|()| word.write_to(&mut &stream));

        said.map_err(|error| network_error("speak to the next worker", &error))?;
        lanes.push(stream);
    }

    Ok(lanes)
}
