//! The side of the rendezvous that connects: to worker 0 until it answers, then to the next worker in the
//! ring.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use cnclip_crds::names::ENV_RENDEZVOUS_SECRET;

use super::handshake::{HANDSHAKE_TIMEOUT, HandshakeError, connect_with_proof};
use super::{
    ControlMessage, PeerConnection, RENDEZVOUS_POLL_INTERVAL, RendezvousDeadline, RendezvousPeers,
    RingIdentity, WorkerHello, network_error,
};
use crate::authentication::{Authenticator, Nonce};
use crate::error::{Error, Result};
use crate::topology::RING_CHANNELS;

/// How long one address may take to accept a connection. Short, because the name may resolve to the address
/// of a pod that is gone: the next attempt resolves it again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends a hello to worker 0 until it answers: its DNS name may appear late, and its pod may start last.
///
/// # Errors
/// If it does not answer in time, does not know the secret, or refuses.
pub(super) fn connect_to_coordinator(
    coordinator: &str,
    hello: &WorkerHello,
    authenticator: &Authenticator,
    deadline: &RendezvousDeadline<'_>,
) -> Result<RendezvousPeers> {
    loop {
        deadline.check_deadline(|| format!("worker 0 at {coordinator}"))?;
        let stream = match send_hello(coordinator, hello, authenticator) {
            Ok(stream) => stream,
            Err(HandshakeError::Failed) => {
                std::thread::sleep(RENDEZVOUS_POLL_INTERVAL);
                continue;
            }
            Err(HandshakeError::WrongSecret) => return Err(wrong_secret_error(coordinator)),
            Err(HandshakeError::Refused { reason, retryable }) => {
                return Err(refusal_error(hello, coordinator, &reason, retryable));
            }
        };

        // Worker 0 answers when all are there.
        while is_silent(&stream) {
            deadline
                .check_deadline(|| format!("the other workers, with worker 0 at {coordinator}"))?;
        }

        match read_answer(&stream) {
            // A table of another number of workers is none of this run: what listens there is no worker 0 of it.
            Ok(ControlMessage::Table { rings, session }) if rings.len() == hello.workers => {
                return peers_from_table(stream, rings, session);
            }
            Ok(ControlMessage::Refused { reason, retryable }) => {
                return Err(refusal_error(hello, coordinator, &reason, retryable));
            }
            // It ended before it could answer: a new one may come up at the same address.
            Ok(_) | Err(_) => std::thread::sleep(RENDEZVOUS_POLL_INTERVAL),
        }
    }
}

fn send_hello(
    coordinator: &str,
    hello: &WorkerHello,
    authenticator: &Authenticator,
) -> std::result::Result<TcpStream, HandshakeError> {
    let stream = open_connection(coordinator)?;
    let first = ControlMessage::Hello {
        hello: hello.clone(),
        nonce: Some(Nonce::random()?),
    };

    connect_with_proof(&stream, authenticator, &first)?;
    stream.set_read_timeout(Some(RENDEZVOUS_POLL_INTERVAL))?;
    Ok(stream)
}

/// The answer of worker 0, which has begun to arrive.
fn read_answer(stream: &TcpStream) -> std::io::Result<ControlMessage> {
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let answer = ControlMessage::read_from(&mut &*stream)?;
    stream.set_read_timeout(None)?;
    Ok(answer)
}

fn open_connection(coordinator: &str) -> std::io::Result<TcpStream> {
    let mut last_error = std::io::Error::from(std::io::ErrorKind::NotFound);
    for address in coordinator.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
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
    session: Nonce,
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
        session,
    })
}

fn wrong_secret_error(coordinator: &str) -> Error {
    Error::Config(format!(
        "worker 0 at {coordinator} does not know the secret of this worker: {ENV_RENDEZVOUS_SECRET} differs between \
         the two. Give all workers of a run the same value."
    ))
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
    authenticator: &Authenticator,
    deadline: &RendezvousDeadline<'_>,
) -> Result<Vec<TcpStream>> {
    // A connection for each channel rather than frames of both on one: a large all-reduce of gradients must not
    // delay the small collectives that a step waits for.
    let mut channels = Vec::with_capacity(RING_CHANNELS);
    while channels.len() < RING_CHANNELS {
        deadline.check_deadline(|| format!("the next worker at {next}"))?;
        // Worker 0 gave its address, so that whoever answers otherwise is taken for an error that passes.
        match connect_channel(next, own_identity, channels.len(), authenticator) {
            Ok(stream) => channels.push(stream),
            Err(_) => std::thread::sleep(RENDEZVOUS_POLL_INTERVAL),
        }
    }

    Ok(channels)
}

fn connect_channel(
    next: SocketAddr,
    own_identity: RingIdentity,
    channel: usize,
    authenticator: &Authenticator,
) -> std::result::Result<TcpStream, HandshakeError> {
    let RingIdentity { session, worker } = own_identity;
    let stream = TcpStream::connect_timeout(&next, CONNECT_TIMEOUT)?;
    let first = ControlMessage::Neighbour {
        session,
        worker,
        channel,
        nonce: Nonce::random()?,
    };

    connect_with_proof(&stream, authenticator, &first)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}
