//! How the workers of a run find each other: all connect to worker 0, which answers once everybody is there.
//! A worker that does not belong is refused with a reason, and disturbs no other worker.
//!
//! 1. Each worker opens a port for its ring connections, and sends its number in a hello to worker 0.
//! 2. Worker 0 answers all of them with the table of ring addresses, once they are complete. The
//!    connection to it stays open: it becomes the control plane.
//! 3. Each worker connects to the next one's ring port, once for each channel, and identifies itself with
//!    the secret of the table.
//!
//! Heartbeats start between 2 and 3: a worker that dies before the ring is closed is detected like any
//! other.

mod client;
mod server;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::abort_state::AbortState;
use crate::control::{ControlPlane, PeerConnection};
use crate::control_message::{ControlMessage, WorkerHello};
use crate::error::{Error, Result};
use crate::link::{start_incoming_link, start_outgoing_link};
use crate::ring::RingLinks;
use crate::topology::RENDEZVOUS_TIMEOUT;

/// How long a connection may take to send its first message. Port scanners and health checks connect and
/// send nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a waiting worker tries again, and checks whether it is to stop.
const RENDEZVOUS_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The connections of a worker: the control plane, and for each channel a link to the next worker and from
/// the previous one.
pub(super) struct RendezvousLinks {
    pub(super) control: ControlPlane,
    pub(super) channels: Vec<RingLinks>,
}

/// What every worker knows once all are there.
struct RendezvousPeers {
    /// Connections to all others at worker 0, to worker 0 at the others.
    connections: Vec<PeerConnection>,
    /// The ring port of each worker.
    rings: Vec<SocketAddr>,
    secret: u64,
}

/// What a ring connection identifies itself with.
#[derive(Clone, Copy, PartialEq, Eq)]
struct RingIdentity {
    secret: u64,
    worker: usize,
}

/// Finds the other workers, and connects to them. `stop` is polled while waiting.
///
/// # Errors
/// If not all come in time, or worker 0 refuses this one.
pub(super) fn run_rendezvous(
    coordinator: &str,
    mut hello: WorkerHello,
    abort_state: &Arc<AbortState>,
    stop: &dyn Fn() -> bool,
) -> Result<RendezvousLinks> {
    let ring_listener =
        bind_any_address(0).map_err(|error| network_error("listen for other workers", &error))?;
    hello.port = ring_listener
        .local_addr()
        .map_err(|error| network_error("listen for other workers", &error))?
        .port();

    let deadline = RendezvousDeadline {
        deadline: Instant::now() + RENDEZVOUS_TIMEOUT,
        stop,
    };

    let RendezvousPeers {
        connections,
        rings,
        secret,
    } = match hello.worker {
        0 => server::serve_rendezvous(coordinator, &hello, &deadline)?,
        _ => client::connect_to_coordinator(coordinator, &hello, &deadline)?,
    };

    let topology = hello.topology();
    let control = ControlPlane::start_heartbeat(connections, Arc::clone(abort_state), topology)
        .map_err(|error| network_error("listen to the other workers", &error))?;

    let worker = topology.worker;
    let workers = topology.workers;
    let next_address = rings[(worker + 1) % workers];
    let own_identity = RingIdentity { secret, worker };
    let previous_identity = RingIdentity {
        secret,
        worker: (worker + workers - 1) % workers,
    };

    // Connecting first does not deadlock: the system accepts connections to a listening port by itself.
    let outgoing = client::connect_next_worker(next_address, own_identity, &deadline)?;
    let incoming = server::accept_previous_worker(&ring_listener, previous_identity, &deadline)?;
    let channels = start_links(outgoing, incoming, abort_state)
        .map_err(|error| network_error("link the workers", &error))?;

    Ok(RendezvousLinks { control, channels })
}

/// A pair of links for each channel.
fn start_links(
    outgoing: Vec<TcpStream>,
    incoming: Vec<TcpStream>,
    abort_state: &Arc<AbortState>,
) -> std::io::Result<Vec<RingLinks>> {
    outgoing
        .into_iter()
        .zip(incoming)
        .map(|(outgoing, incoming)| {
            Ok(RingLinks {
                next: start_outgoing_link(outgoing, Arc::clone(abort_state))?,
                previous: start_incoming_link(incoming, Arc::clone(abort_state))?,
            })
        })
        .collect()
}

/// How long to wait for others.
struct RendezvousDeadline<'a> {
    deadline: Instant,
    stop: &'a dyn Fn() -> bool,
}

impl RendezvousDeadline<'_> {
    /// # Errors
    /// If the deadline is over, or this process is to stop; `awaited` names what was waited for.
    fn check_deadline(&self, awaited: impl FnOnce() -> String) -> Result<()> {
        if (self.stop)() {
            return Err(Error::WorkerLost(format!(
                "stopped while waiting for {}; run the same command again",
                awaited()
            )));
        }

        if Instant::now() < self.deadline {
            return Ok(());
        }

        Err(Error::WorkerLost(format!(
            "timed out after {} s while waiting for {}. Check that all workers run and that the network lets \
             them reach world.coordinator; then run the same command again.",
            RENDEZVOUS_TIMEOUT.as_secs(),
            awaited()
        )))
    }
}

fn network_error(action: &str, error: &std::io::Error) -> Error {
    Error::WorkerLost(format!(
        "cannot {action}: {error}. Run the same command again."
    ))
}

/// Listens on a port of all addresses of this machine; of IPv6 in a cluster without IPv4.
fn bind_any_address(port: u16) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .or_else(|error| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).map_err(|_| error))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The first message on a connection, which has to come before the handshake timeout.
fn read_first_message(stream: &TcpStream) -> std::io::Result<ControlMessage> {
    // Some systems let an accepted connection inherit the listener's mode.
    stream.set_nonblocking(false)?;
    // Messages are small and awaited: Nagle's algorithm would only delay them.
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let message = ControlMessage::read_from(&mut &*stream)?;
    stream.set_read_timeout(None)?;

    Ok(message)
}

#[cfg(test)]
mod tests;
