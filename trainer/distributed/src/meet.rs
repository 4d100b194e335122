//! How the workers of a run find each other: all dial worker 0, which answers once everybody is there.
//! Whoever does not belong is told so and disturbs nobody.

mod dial;
mod host;

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::Control;
use super::fate::Fate;
use super::link::{incoming, outgoing};
use super::ring::Links;
use super::word::{Hello, Word};
use super::{LANES, MEET_WITHIN};
use crate::error::{Error, Result};

/// How long a connection may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often who waits looks up.
const TICK: Duration = Duration::from_millis(100);

/// What the network gives a worker: a link to the next one and from the one before, for each lane.
pub(super) struct Met {
    pub(super) control: Control,
    pub(super) lanes: Vec<Links>,
}

/// Meets the other workers. `stop` is asked while waiting.
///
/// # Errors
/// If not all come in time, or worker 0 refuses this one.
pub(super) fn meet(
    coordinator: &str,
    mut hello: Hello,
    fate: &Arc<Fate>,
    stop: &dyn Fn() -> bool,
) -> Result<Met> {
    let ring = bind(0).map_err(|error| failed("listen for other workers", &error))?;
    hello.port = ring
        .local_addr()
        .map_err(|error| failed("listen for other workers", &error))?
        .port();

    let patience = Patience {
        until: Instant::now() + MEET_WITHIN,
        stop,
    };

    let (peers, rings, secret) = match hello.worker {
        0 => host::host(coordinator, &hello, &patience)?,
        _ => dial::dial(coordinator, &hello, &patience)?,
    };

    let worker = hello.worker;
    let devices = hello.devices;
    let control = Control::start(peers, fate.clone(), (worker, devices));
    let control = control.map_err(|error| failed("listen to the other workers", &error))?;
    let next = rings[(worker + 1) % hello.workers];
    let previous = (worker + hello.workers - 1) % hello.workers;
    let to = dial::neighbour(next, (secret, worker), &patience)?;
    let from = host::neighbour(&ring, (secret, previous), &patience)?;

    let link = |(to, from)| {
        let next = outgoing(to, fate.clone())?;
        Ok(Links {
            next,
            previous: incoming(from, fate.clone())?,
        })
    };

    let lanes = to
        .into_iter()
        .zip(from)
        .map(link)
        .collect::<std::io::Result<_>>();

    Ok(Met {
        control,
        lanes: lanes.map_err(|error| failed("link the workers", &error))?,
    })
}

/// How long to wait for others.
struct Patience<'a> {
    until: Instant,
    stop: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    /// # Errors
    /// If it has been long enough; `what` is waited for.
    fn check(&self, what: impl FnOnce() -> String) -> Result<()> {
        if (self.stop)() {
            return Err(Error::Lost(format!(
                "asked to stop while waiting for {}; run the same command again",
                what()
            )));
        }

        if Instant::now() < self.until {
            return Ok(());
        }

        Err(Error::Lost(format!(
            "waited {} s for {} in vain. See whether all workers run, and whether the network lets them \
             reach world.coordinator; then run the same command again.",
            MEET_WITHIN.as_secs(),
            what()
        )))
    }
}

fn failed(what: &str, error: &std::io::Error) -> Error {
    Error::Lost(format!(
        "cannot {what}: {error}. Run the same command again."
    ))
}

/// A port on all addresses of this machine.
fn bind(port: u16) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .or_else(|error| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).map_err(|_| error))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The first word on a connection, which has a moment to say it.
fn first_word(stream: &TcpStream) -> std::io::Result<Word> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let word = Word::read(&mut &*stream)?;
    stream.set_read_timeout(None)?;

    Ok(word)
}

#[cfg(test)]
mod tests;
