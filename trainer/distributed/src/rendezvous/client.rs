//! The side of the rendezvous that connects: to worker 0 until it answers, then to the next worker in the
//! ring.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{
    ControlMessage, PeerConnection, RENDEZVOUS_POLL_INTERVAL, RendezvousDeadline, RendezvousPeers,
    RingIdentity, WorkerHello, network_error, read_first_message,
};
use crate::error::{Error, Result};
use crate::topology::RING_CHANNELS;

/// How long one address may take to accept a connection. Short, because the name may resolve to the address
/// of a pod that is gone: the next attempt resolves it again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends a hello to worker 0 until it answers: its DNS name may appear late, and its pod may start last.
///
/// # Errors
/// If it does not answer in time, or refuses.
pub(super) fn connect_to_coordinator(
    coordinator: &str,
    hello: &WorkerHello,
    deadline: &RendezvousDeadline<'_>,
) -> Result<RendezvousPeers> {
    loop {
        deadline.check_deadline(|| format!("worker 0 at {coordinator}"))?;
        let Ok(stream) = send_hello(coordinator, hello) else {
            std::thread::sleep(RENDEZVOUS_POLL_INTERVAL);
            continue;
        };

        // Worker 0 answers when all are there.
        while is_silent(&stream) {
            deadline
                .check_deadline(|| format!("the other workers, with worker 0 at {coordinator}"))?;
        }

        match read_first_message(&stream) {
            // A table of another number of workers is none of this run: what listens there is no worker 0 of it.
            Ok(ControlMessage::Table { rings, secret }) if rings.len() == hello.workers => {
                return peers_from_table(stream, rings, secret);
            }
            Ok(ControlMessage::Refused { reason, retryable }) => {
                return Err(refusal_error(hello, coordinator, &reason, retryable));
            }
            // It ended before it could answer: a new one may come up at the same address.
            Ok(_) | Err(_) => std::thread::sleep(RENDEZVOUS_POLL_INTERVAL),
        }
    }
}

fn send_hello(coordinator: &str, hello: &WorkerHello) -> std::io::Result<TcpStream> {
    let stream = open_connection(coordinator)?;
    ControlMessage::Hello(hello.clone()).write_to(&mut &stream)?;
    Ok(stream)
}

fn open_connection(coordinator: &str) -> std::io::Result<TcpStream> {
    let mut last_error = std::io::Error::from(std::io::ErrorKind::NotFound);
    for address in coordinator.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(RENDEZVOUS_POLL_INTERVAL))?;
                return Ok(stream);
            }
            Err(error) => last_error = error,
        }
    }

    Err(last_error)
}

/// Whether nothing came within the read timeout, and the connection is still open.
fn is_silent(stream: &TcpStream) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    // Peeked, so that the answer stays in the stream until it is read as a whole.
    matches!(stream.peek(&mut [0]), Err(error) if matches!(error.kind(), WouldBlock | TimedOut))
}

/// The table has no address for worker 0, which does not know under which one it was found: the one that
/// this worker connected to is filled in.
fn peers_from_table(
    stream: TcpStream,
    mut rings: Vec<SocketAddr>,
    secret: u64,
) -> Result<RendezvousPeers> {
    let coordinator = stream
        .peer_addr()
        .map_err(|error| network_error("know worker 0's address", &error))?;

    if let Some(first) = rings.first_mut() {
        first.set_ip(coordinator.ip());
    }

    let connections = vec![PeerConnection { worker: 0, stream }];
    Ok(RendezvousPeers {
        connections,
        rings,
        secret,
    })
}

fn refusal_error(hello: &WorkerHello, coordinator: &str, reason: &str, retryable: bool) -> Error {
    let worker = hello.worker;
    let refusal = format!("worker 0 at {coordinator} refuses worker {worker}: {reason}.");
    if retryable {
        Error::WorkerLost(format!("{refusal} Run the same command again."))
    } else {
        Error::Config(format!(
            "{refusal} Give all workers of a run the same file."
        ))
    }
}

/// Connections to the next worker in the ring, one for each channel.
///
/// # Errors
/// If it cannot be reached.
pub(super) fn connect_next_worker(
    next: SocketAddr,
    own_identity: RingIdentity,
    deadline: &RendezvousDeadline<'_>,
) -> Result<Vec<TcpStream>> {
    let RingIdentity { secret, worker } = own_identity;
    // A connection for each channel rather than frames of both on one: a large all-reduce of gradients must not
    // delay the small collectives that a step waits for.
    let mut channels = Vec::with_capacity(RING_CHANNELS);
    while channels.len() < RING_CHANNELS {
        deadline.check_deadline(|| format!("the next worker at {next}"))?;
        let Ok(stream) = TcpStream::connect_timeout(&next, CONNECT_TIMEOUT) else {
            std::thread::sleep(RENDEZVOUS_POLL_INTERVAL);
            continue;
        };

        let message = ControlMessage::Neighbour {
            secret,
            worker,
            channel: channels.len(),
        };

        stream
            .set_nodelay(true)
            .and_then(|()| message.write_to(&mut &stream))
            .map_err(|error| network_error("connect to the next worker", &error))?;

        channels.push(stream);
    }

    Ok(channels)
}
