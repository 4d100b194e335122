//! How the workers of a run find each other: all connect to worker 0, which answers once everybody is there.
//! A worker that does not belong is refused with a reason, and disturbs no other worker; nor does anybody else who
//! connects. Every connection begins with a [handshake] in which both sides prove that they know the secret of the run.
//!
//! 1. Each worker opens a port for its ring connections, and sends its number in a hello to worker 0.
//! 2. Worker 0 answers all of them with the table of ring addresses, once they are complete. The
//!    connection to it stays open: it becomes the control plane.
//! 3. Each worker connects to the next one's ring port, once for each channel. What it proves covers the random
//!    number of the table, so that it is of this rendezvous.
//!
//! Heartbeats start between 2 and 3: a worker that dies before the ring is closed is detected like any
//! other.

mod acceptor;
mod client;
mod handshake;
mod server;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::abort_state::AbortState;
use crate::authentication::{Authenticator, Nonce};
use crate::control::{ControlPlane, PeerConnection};
use crate::control_message::{ControlMessage, WorkerHello};
use crate::error::{Error, Result};
use crate::link::{start_incoming_link, start_outgoing_link};
use crate::ring::RingLinks;
use crate::topology::RENDEZVOUS_TIMEOUT;

/// How often a waiting worker tries again, and checks whether it is to stop.
const RENDEZVOUS_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Connections that the system keeps until they are accepted. The standard library's 128 are gone at once when somebody
/// opens many, and a worker whose connection is dropped waits for a second; a system with a smaller limit keeps to that.
const BACKLOG: i32 = 4096;

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
    session: Nonce,
}

/// What a ring connection identifies itself with.
#[derive(Clone, Copy, PartialEq, Eq)]
struct RingIdentity {
    session: Nonce,
    worker: usize,
}

/// Finds the other workers, and connects to them. `stop` is polled while waiting.
///
/// # Errors
/// If not all come in time, or worker 0 refuses this one.
pub(super) fn run_rendezvous(
    coordinator: &str,
    mut hello: WorkerHello,
    authenticator: &Authenticator,
    abort_state: &Arc<AbortState>,
    stop: StopRequest<'_>,
) -> Result<RendezvousLinks> {
    let ring_listener =
        bind_any_address(0).map_err(|error| network_error("listen for other workers", &error))?;
    hello.port = ring_listener
        .local_addr()
        .map_err(|error| network_error("listen for other workers", &error))?
        .port();

    let deadline = RendezvousDeadline {
        deadline: Instant::now() + RENDEZVOUS_TIMEOUT,
        abort_state,
        stop,
    };

    let RendezvousPeers {
        connections,
        rings,
        session,
    } = match hello.worker {
        0 => server::serve_rendezvous(coordinator, &hello, authenticator, &deadline)?,
        _ => client::connect_to_coordinator(coordinator, &hello, authenticator, &deadline)?,
    };

    let topology = hello.topology();
    let control = ControlPlane::start_heartbeat(connections, Arc::clone(abort_state), topology)
        .map_err(|error| network_error("listen to the other workers", &error))?;

    let worker = topology.worker;
    let workers = topology.workers;
    let next_address = rings[(worker + 1) % workers];
    let own_identity = RingIdentity { session, worker };
    let previous_identity = RingIdentity {
        session,
        worker: (worker + workers - 1) % workers,
    };

    // At the same time: each waits for the answer of a neighbour that does the same.
    let (outgoing, incoming) = std::thread::scope(|scope| {
        let connect =
            || client::connect_next_worker(next_address, own_identity, authenticator, &deadline);
        let outgoing = scope.spawn(connect);
        let incoming = server::accept_previous_worker(
            ring_listener,
            previous_identity,
            authenticator,
            &deadline,
        );

        (outgoing.join(), incoming)
    });

    let outgoing = outgoing.map_err(|_| Error::Bug("the thread that connects died".into()))??;
    let incoming = incoming?;
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

/// Whether this process is to stop.
pub(super) type StopRequest<'a> = &'a (dyn Fn() -> bool + Sync);

/// How long to wait for others.
struct RendezvousDeadline<'a> {
    deadline: Instant,
    abort_state: &'a AbortState,
    stop: StopRequest<'a>,
}

impl RendezvousDeadline<'_> {
    /// # Errors
    /// If the deadline is over, a worker has failed, or this process is to stop; `awaited` names what was waited for.
    fn check_deadline(&self, awaited: impl FnOnce() -> String) -> Result<()> {
        self.abort_state.check_failure()?;
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
    // Linux takes a later call as a change.
    socket2::SockRef::from(&listener).listen(BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests;
