//! How the workers of a run find each other: all dial worker 0, which answers once everybody is there.
//! Whoever does not belong is told so and disturbs nobody.

mod client;
mod server;

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::abort_state::AbortState;
use super::control::ControlPlane;
use super::control_message::{ControlMessage, WorkerHello};
use super::link::{start_incoming_link, start_outgoing_link};
use super::ring::RingLinks;
use super::{RENDEZVOUS_TIMEOUT, RING_CHANNELS};
use crate::error::{Error, Result};

/// How long a connection may take to say who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often who waits looks up.
const RENDEZVOUS_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What the network gives a worker: a link to the next one and from the one before, for each lane.
pub(super) struct RendezvousLinks {
    pub(super) control: ControlPlane,
    pub(super) channels: Vec<RingLinks>,
}

/// Meets the other workers. `stop` is asked while waiting.
///
/// # Errors
/// If not all come in time, or worker 0 refuses this one.
pub(super) fn run_rendezvous(
    coordinator: &str,
    mut hello: WorkerHello,
    fate: &Arc<AbortState>,
    stop: &dyn Fn() -> bool,
) -> Result<RendezvousLinks> {
    let ring =
        bind_any_address(0).map_err(|error| network_error("listen for other workers", &error))?;
    hello.port = ring
        .local_addr()
        .map_err(|error| network_error("listen for other workers", &error))?
        .port();

    let patience = RendezvousDeadline {
        deadline: Instant::now() + RENDEZVOUS_TIMEOUT,
        stop,
    };

    let (peers, rings, secret) = match hello.worker {
        0 => server::serve_rendezvous(coordinator, &hello, &patience)?,
        _ => client::connect_to_coordinator(coordinator, &hello, &patience)?,
    };

    let worker = hello.worker;
    let devices = hello.devices;
    let control = ControlPlane::start_heartbeat(peers, fate.clone(), (worker, devices));
    let control = control.map_err(|error| network_error("listen to the other workers", &error))?;
    let next = rings[(worker + 1) % hello.workers];
    let previous = (worker + hello.workers - 1) % hello.workers;
    let to = client::connect_next_worker(next, (secret, worker), &patience)?;
    let from = server::accept_previous_worker(&ring, (secret, previous), &patience)?;

    let link = |(to, from)| {
        let next = start_outgoing_link(to, fate.clone())?;
        Ok(RingLinks {
            next,
            previous: start_incoming_link(from, fate.clone())?,
        })
    };

    let lanes = to
        .into_iter()
        .zip(from)
        .map(link)
        .collect::<std::io::Result<_>>();

    Ok(RendezvousLinks {
        control,
        channels: lanes.map_err(|error| network_error("link the workers", &error))?,
    })
}

/// How long to wait for others.
struct RendezvousDeadline<'a> {
    deadline: Instant,
    stop: &'a dyn Fn() -> bool,
}

impl RendezvousDeadline<'_> {
    /// # Errors
    /// If it has been long enough; `what` is waited for.
    fn check_deadline(&self, what: impl FnOnce() -> String) -> Result<()> {
        if (self.stop)() {
            return Err(Error::Lost(format!(
                "asked to stop while waiting for {}; run the same command again",
                what()
            )));
        }

        if Instant::now() < self.deadline {
            return Ok(());
        }

        Err(Error::Lost(format!(
            "waited {} s for {} in vain. See whether all workers run, and whether the network lets them \
             reach world.coordinator; then run the same command again.",
            RENDEZVOUS_TIMEOUT.as_secs(),
            what()
        )))
    }
}

fn network_error(what: &str, error: &std::io::Error) -> Error {
    Error::Lost(format!(
        "cannot {what}: {error}. Run the same command again."
    ))
}

/// A port on all addresses of this machine.
fn bind_any_address(port: u16) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .or_else(|error| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).map_err(|_| error))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The first word on a connection, which has a moment to say it.
fn read_first_message(stream: &TcpStream) -> std::io::Result<ControlMessage> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let word = ControlMessage::read_from(&mut &*stream)?;
    stream.set_read_timeout(None)?;

    Ok(word)
}

#[cfg(test)]
mod tests;
