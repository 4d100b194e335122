//! Worker 0's side of the rendezvous: accepts the workers of its run, refuses others, and answers when all
//! are there. Reads each hello in a thread of its own, so that a silent connection delays no other.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};

use super::{
    ControlMessage, PeerConnection, RENDEZVOUS_POLL_INTERVAL, RendezvousDeadline, RendezvousPeers,
    RingIdentity, WorkerHello, bind_any_address, network_error, read_first_message,
};
use crate::error::{Error, Result};
use crate::topology::RING_CHANNELS;

/// A hello, and the connection that it came on.
struct JoiningWorker {
    hello: WorkerHello,
    stream: TcpStream,
}

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
    deadline: &RendezvousDeadline<'_>,
) -> Result<RendezvousPeers> {
    let listener = listen_at(coordinator)?;
    let workers = wait_for_workers(&listener, own, deadline)?;

    // Worker 0 does not know its own address: each worker fills in the one that it connected to.
    let own_ring = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), own.port);
    let rings: Vec<_> = std::iter::once(own_ring)
        .chain(workers.values().map(|worker| worker.ring))
        .collect();

    // Not for cryptography: it keeps connections of other runs and of port scanners out of the ring.
    let secret = RandomState::new().hash_one(own.port);
    let table = ControlMessage::Table {
        rings: rings.clone(),
        secret,
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
        secret,
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
    listener: &TcpListener,
    own: &WorkerHello,
    deadline: &RendezvousDeadline<'_>,
) -> Result<AcceptedWorkers> {
    let (sender, joining) = channel();
    let mut workers = AcceptedWorkers::new();
    loop {
        // A worker that died while it waited has to come again.
        workers.retain(|_, worker| is_connected(&worker.stream));
        if workers.len() + 1 >= own.workers {
            return Ok(workers);
        }

        deadline.check_deadline(|| missing_workers(own.workers, &workers))?;
        accept_connections(listener, &sender);
        let Ok(JoiningWorker { hello, stream }) = joining.recv_timeout(RENDEZVOUS_POLL_INTERVAL)
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

fn missing_workers(count: usize, workers: &AcceptedWorkers) -> String {
    let missing: Vec<_> = (1..count)
        .filter(|worker| !workers.contains_key(worker))
        .map(|worker| worker.to_string())
        .collect();

    format!("worker {}", missing.join(", "))
}

/// Accepts all pending connections, and reads the first message of each.
fn accept_connections(listener: &TcpListener, sender: &Sender<JoiningWorker>) {
    while let Ok((stream, address)) = listener.accept() {
        let sender = sender.clone();
        let handshake = move || match read_first_message(&stream) {
            // The rendezvous may be over by now: then the connection closes here, and the worker tries again.
            Ok(ControlMessage::Hello(hello)) => {
                drop(sender.send(JoiningWorker { hello, stream }));
            }
            Ok(_) | Err(_) => tracing::debug!(%address, "connection without a hello"),
        };

        // Without a thread the connection is dropped, and the worker tries again.
        let _ = std::thread::Builder::new()
            .name("handshake".into())
            .spawn(handshake);
    }
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
    listener: &TcpListener,
    previous: RingIdentity,
    deadline: &RendezvousDeadline<'_>,
) -> Result<Vec<TcpStream>> {
    let mut channels: [Option<TcpStream>; RING_CHANNELS] = Default::default();
    while channels.iter().any(Option::is_none) {
        deadline.check_deadline(|| format!("the connection of worker {}", previous.worker))?;
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(RENDEZVOUS_POLL_INTERVAL);
            continue;
        };

        // Anybody else is ignored: the connection closes as it is dropped.
        if let Ok(ControlMessage::Neighbour {
            secret,
            worker,
            channel,
        }) = read_first_message(&stream)
            && (RingIdentity { secret, worker }) == previous
            && channel < RING_CHANNELS
        {
            channels[channel] = Some(stream);
        }
    }

    Ok(channels.into_iter().flatten().collect())
}
