//! The side of the rendezvous that accepts: worker 0 the workers of its run, refusing others, until all are there; then
//! each worker the one before it in the ring.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Result as IoResult};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::acceptor::{AcceptedPeer, HandshakeAcceptor};
use super::handshake::{HandshakeStream, challenge_peer};
use super::{
    ControlMessage, PeerConnection, RendezvousDeadline, RendezvousPeers, RingIdentity, WorkerHello,
    bind_any_address, network_error,
};
use crate::authentication::{Authenticator, Nonce};
use crate::error::{Error, Result};
use crate::topology::RING_CHANNELS;

/// A worker that was accepted and waits for the answer.
struct AcceptedWorker {
    stream: TcpStream,
    ring: SocketAddr,
}

/// Accepted workers by their index: in the order of the ring.
type AcceptedWorkers = BTreeMap<usize, AcceptedWorker>;

/// Waits for all other workers.
///
/// # Errors
/// If the port of `coordinator` cannot be opened, or not all come in time.
pub(super) fn serve_rendezvous(
    coordinator: &str,
    own: &WorkerHello,
    authenticator: &Authenticator,
    deadline: &RendezvousDeadline<'_>,
) -> Result<RendezvousPeers> {
    let listener = listen_at(coordinator)?;
    let workers = wait_for_workers(listener, own, authenticator, deadline)?;

    // Worker 0 does not know its own address: each worker fills in the one that it connected to.
    let own_ring = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), own.port);
    let rings: Vec<_> = std::iter::once(own_ring)
        .chain(workers.values().map(|worker| worker.ring))
        .collect();

    let session = Nonce::random().map_err(|error| network_error("draw a random number", &error))?;
    let table = ControlMessage::Table {
        rings: rings.clone(),
        session,
    };

    for (index, worker) in &workers {
        table
            .write_to(&mut &worker.stream)
            .map_err(|error| network_error(&format!("answer worker {index}"), &error))?;
    }

    let connections = workers
        .into_iter()
        .map(|(worker, accepted)| PeerConnection {
            worker,
            stream: accepted.stream,
        });

    Ok(RendezvousPeers {
        connections: connections.collect(),
        rings,
        session,
    })
}

fn listen_at(coordinator: &str) -> Result<TcpListener> {
    let port = coordinator
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());

    let port = port.ok_or_else(|| {
        Error::Config(format!(
            "world.coordinator is {coordinator}; it must be host:port."
        ))
    })?;

    bind_any_address(port).map_err(|error| {
        Error::Config(format!(
            "cannot listen for the other workers on port {port}: {error}. Set the port of world.coordinator to \
             a free one."
        ))
    })
}

fn wait_for_workers(
    listener: TcpListener,
    own: &WorkerHello,
    authenticator: &Authenticator,
    deadline: &RendezvousDeadline<'_>,
) -> Result<AcceptedWorkers> {
    let handshake = hello_handshake(own.version.clone(), authenticator.clone());
    let mut acceptor = HandshakeAcceptor::new(listener, handshake);
    let mut workers = AcceptedWorkers::new();
    loop {
        // A worker that died while it waited has to come again.
        workers.retain(|_, worker| is_connected(&worker.stream));
        if workers.len() + 1 >= own.workers {
            return Ok(workers);
        }

        deadline.check_deadline(|| missing_workers(own.workers, &workers))?;
        let Some(AcceptedPeer {
            identity: hello,
            stream,
        }) = acceptor.next_peer()
        else {
            continue;
        };

        match check_hello(own, &hello, |worker| workers.contains_key(&worker)) {
            Some(refusal) => send_refusal(&hello, &stream, refusal),
            None => {
                // Without an address the connection is gone already.
                if let Ok(address) = stream.peer_addr() {
                    // The connection's own address, which is reachable as the connection shows; a worker may not
                    // know it. Canonical, for IPv4 peers of an IPv6 socket.
                    let ring = SocketAddr::new(address.ip().to_canonical(), hello.port);
                    workers.insert(hello.worker, AcceptedWorker { stream, ring });
                }
            }
        }
    }
}

/// The handshake of a worker with worker 0, which is of this version.
fn hello_handshake(
    version: String,
    authenticator: Authenticator,
) -> impl Fn(&mut HandshakeStream<'_>) -> IoResult<WorkerHello> {
    let unproven = AtomicUsize::new(0);
    move |stream| {
        let first = stream.read_message()?;
        let ControlMessage::Hello { hello, nonce } = &first else {
            return Err(ErrorKind::InvalidData.into());
        };

        // The only answer to a peer that has proved nothing, because one of another version may not be able to.
        if hello.version != version || nonce.is_none() {
            let other = &hello.version;
            let refusal = ControlMessage::Refused {
                reason: format!(
                    "it has another version of cnclip than worker 0, {other} and not {version}"
                ),
                retryable: false,
            };

            stream.write_message(&refusal)?;
            return Err(ErrorKind::Unsupported.into());
        }

        challenge_peer(stream, &authenticator, &first)
            .inspect_err(|_| warn_of_missing_proof(hello, &unproven))?;

        Ok(hello.clone())
    }
}

/// A warning for the first, second, fourth, eighth ... one: anybody who connects can cause it.
fn warn_of_missing_proof(hello: &WorkerHello, unproven: &AtomicUsize) {
    // Relaxed: a count for the log, which orders nothing.
    let count = 1 + unproven.fetch_add(1, Ordering::Relaxed);
    if count.is_power_of_two() {
        tracing::warn!(
            worker = hello.worker,
            count,
            "a connection did not prove that it knows the secret of the run"
        );
    }
}

fn missing_workers(count: usize, workers: &AcceptedWorkers) -> String {
    let missing: Vec<_> = (1..count)
        .filter(|worker| !workers.contains_key(worker))
        .map(|worker| worker.to_string())
        .collect();

    format!("worker {}", missing.join(", "))
}

/// Why a worker is not accepted, and whether a later attempt may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JoinRefusal {
    pub(super) reason: String,
    pub(super) retryable: bool,
}

/// A field of the hello that all workers must agree on.
struct AgreedField {
    name: &'static str,
    own: String,
    other: String,
    /// Whether a worker with another value may have an equal one later.
    retryable: bool,
}

impl AgreedField {
    fn new(name: &'static str, own: impl ToString, other: impl ToString) -> Self {
        Self {
            name,
            own: own.to_string(),
            other: other.to_string(),
            retryable: false,
        }
    }
}

/// Whether a worker does not belong to this one's run, or is there already.
pub(super) fn check_hello(
    own: &WorkerHello,
    other: &WorkerHello,
    is_present: impl Fn(usize) -> bool,
) -> Option<JoinRefusal> {
    // The run first: a worker of another run differs in most of the other fields, too.
    let fields = [
        AgreedField::new("run", &own.run, &other.run),
        AgreedField::new("stage", &own.stage, &other.stage),
        AgreedField {
            // Pods of the last attempt may still be ending while those of this one start.
            retryable: true,
            ..AgreedField::new("attempt", own.attempt, other.attempt)
        },
        AgreedField::new("number of workers", own.workers, other.workers),
        AgreedField::new("number of devices", own.devices, other.devices),
        AgreedField::new("version of cnclip", &own.version, &other.version),
        AgreedField::new("configuration", &own.config, &other.config),
    ];

    if let Some(field) = fields.into_iter().find(|field| field.own != field.other) {
        let AgreedField {
            name,
            own,
            other,
            retryable,
        } = field;

        return Some(JoinRefusal {
            reason: format!("it has another {name} than worker 0, {other} and not {own}"),
            retryable,
        });
    }

    let worker = other.worker;
    if worker == 0 || worker >= own.workers {
        return Some(JoinRefusal {
            reason: format!("its number must be 1 to {}", own.workers - 1),
            retryable: false,
        });
    }

    // The other one may be a connection that is about to be detected as closed.
    is_present(worker).then(|| JoinRefusal {
        reason: format!("another worker {worker} is here already"),
        retryable: true,
    })
}

fn send_refusal(hello: &WorkerHello, mut stream: &TcpStream, refusal: JoinRefusal) {
    let JoinRefusal { reason, retryable } = refusal;
    tracing::warn!(
        worker = hello.worker,
        run = hello.run,
        reason,
        "worker refused"
    );

    // It may be gone already.
    let _ = ControlMessage::Refused { reason, retryable }.write_to(&mut stream);
}

/// Whether the other end is still there: it sends nothing until it is answered, so anything else than
/// silence is an end.
fn is_connected(stream: &TcpStream) -> bool {
    let peek = || {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    };

    matches!(peek(), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// The connections of the previous worker in the ring, one for each channel.
///
/// # Errors
/// If they do not come.
pub(super) fn accept_previous_worker(
    listener: TcpListener,
    previous: RingIdentity,
    authenticator: &Authenticator,
    deadline: &RendezvousDeadline<'_>,
) -> Result<Vec<TcpStream>> {
    let handshake = neighbour_handshake(previous, authenticator.clone());
    let mut acceptor = HandshakeAcceptor::new(listener, handshake);
    let mut channels: [Option<TcpStream>; RING_CHANNELS] = Default::default();
    while channels.iter().any(Option::is_none) {
        deadline.check_deadline(|| format!("the connection of worker {}", previous.worker))?;
        if let Some(AcceptedPeer {
            identity: channel,
            stream,
        }) = acceptor.next_peer()
        {
            channels[channel] = Some(stream);
        }
    }

    Ok(channels.into_iter().flatten().collect())
}

/// The handshake of the previous worker in the ring: gives the channel of the connection.
fn neighbour_handshake(
    previous: RingIdentity,
    authenticator: Authenticator,
) -> impl Fn(&mut HandshakeStream<'_>) -> IoResult<usize> {
    move |stream| {
        let first = stream.read_message()?;
        match first {
            ControlMessage::Neighbour {
                session,
                worker,
                channel,
                ..
            } if (RingIdentity { session, worker }) == previous && channel < RING_CHANNELS => {
                challenge_peer(stream, &authenticator, &first)?;
                Ok(channel)
            }
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}
