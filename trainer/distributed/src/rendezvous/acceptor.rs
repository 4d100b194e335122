//! Accepts connections from anybody, and hands on those that pass a handshake. Neither the number of the others, nor
//! what they send, nor their silence delays those that belong.

use std::collections::VecDeque;
use std::io::Result;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;
use std::time::Duration;

use super::handshake::HandshakeStream;
use crate::control_message::ControlMessage;

/// Handshakes at once. One takes a few round trips, so this is far more than a run's workers need; each costs a thread,
/// a file descriptor, and 4 KiB for a message.
const MAX_HANDSHAKES: usize = 256;

/// How often the port is looked at while nobody comes.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(10);

/// A message of a handshake is read on the stack of its thread.
const HANDSHAKE_STACK_BYTES: usize = 256 << 10;

/// What a peer says of itself before it is welcome.
type Handshake<T> = Arc<dyn Fn(&mut HandshakeStream<'_>) -> Result<T> + Send + Sync>;

/// A peer that passed the handshake.
pub(super) struct AcceptedPeer<T> {
    pub(super) identity: T,
    pub(super) stream: TcpStream,
}

/// A connection whose handshake goes on, or has ended a moment ago.
#[derive(Clone)]
struct PendingHandshake {
    stream: Arc<TcpStream>,
    /// Set by whichever comes first, the end of the handshake or its abort.
    is_decided: Arc<AtomicBool>,
}

/// A listening port.
pub(super) struct HandshakeAcceptor<T> {
    listener: TcpListener,
    handshake: Handshake<T>,
    /// The oldest first.
    pending: VecDeque<PendingHandshake>,
    sender: Sender<AcceptedPeer<T>>,
    accepted: Receiver<AcceptedPeer<T>>,
}

impl<T: Send + 'static> HandshakeAcceptor<T> {
    /// Accepts on a listener that does not block.
    pub(super) fn new(
        listener: TcpListener,
        handshake: impl Fn(&mut HandshakeStream<'_>) -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        let (sender, accepted) = channel();
        Self {
            listener,
            handshake: Arc::new(handshake),
            pending: VecDeque::new(),
            sender,
            accepted,
        }
    }

    /// Accepts pending connections, and returns the next peer that passed the handshake, if one does so soon.
    pub(super) fn next_peer(&mut self) -> Option<AcceptedPeer<T>> {
        self.pending.retain(|pending| !pending.is_decided());

        // The system keeps few connections for later, and a worker whose connection it drops tries again after a
        // second: those that are there are accepted without a pause.
        let wait = match self.accept_connections() {
            0 => ACCEPT_INTERVAL,
            _ => Duration::ZERO,
        };

        self.accepted.recv_timeout(wait).ok()
    }

    /// How many there were, but no more than a bound: those who connect without end must not keep a peer waiting that
    /// has passed.
    fn accept_connections(&mut self) -> usize {
        for count in 0..MAX_HANDSHAKES {
            let Ok((stream, _)) = self.listener.accept() else {
                return count;
            };

            self.start_handshake(stream);
        }

        MAX_HANDSHAKES
    }

    fn start_handshake(&mut self, stream: TcpStream) {
        if self.pending.len() >= MAX_HANDSHAKES {
            self.abort_oldest();
        }

        let pending = PendingHandshake {
            stream: Arc::new(stream),
            is_decided: Arc::default(),
        };

        let handshake = Arc::clone(&self.handshake);
        let sender = self.sender.clone();
        let own = pending.clone();
        let run = move || {
            if let Some(peer) = own.run_handshake(&*handshake) {
                // The rendezvous may be over by now: then the connection closes here.
                let _ = sender.send(peer);
            }
        };

        // Without a thread the connection is dropped, and a worker tries again.
        let spawned = Builder::new()
            .name("handshake".into())
            .stack_size(HANDSHAKE_STACK_BYTES)
            .spawn(run);

        if spawned.is_ok() {
            self.pending.push_back(pending);
        }
    }

    /// Makes room. The oldest one is most likely a connection that is silent: a worker's handshake is over within
    /// milliseconds, and a worker that is too slow tries again.
    fn abort_oldest(&mut self) {
        self.pending.retain(|pending| !pending.is_decided());
        if self.pending.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.pending.pop_front()
        {
            oldest.abort();
        }
    }
}

impl<T> Drop for HandshakeAcceptor<T> {
    fn drop(&mut self) {
        self.pending.iter().for_each(PendingHandshake::abort);
    }
}

impl PendingHandshake {
    fn is_decided(&self) -> bool {
        self.is_decided.load(Ordering::Acquire)
    }

    /// Whether nothing was decided before.
    fn decide(&self) -> bool {
        !self.is_decided.swap(true, Ordering::AcqRel)
    }

    fn abort(&self) {
        if self.decide() {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    fn run_handshake<T>(
        self,
        handshake: &(dyn Fn(&mut HandshakeStream<'_>) -> Result<T> + Send + Sync),
    ) -> Option<AcceptedPeer<T>> {
        let result = HandshakeStream::new(&self.stream).and_then(|mut stream| {
            let identity = handshake(&mut stream)?;
            Ok((identity, stream))
        });

        let is_first = self.decide();
        match result {
            Ok((identity, mut stream)) if is_first => {
                stream.write_message(&ControlMessage::Welcome).ok()?;
                let stream = self.stream.try_clone().ok()?;
                stream.set_read_timeout(None).ok()?;
                stream.set_write_timeout(None).ok()?;
                Some(AcceptedPeer { identity, stream })
            }
            Ok(_) => None,
            Err(error) => {
                let address = self.stream.peer_addr().ok();
                tracing::debug!(?address, %error, "connection refused");
                let _ = self.stream.shutdown(Shutdown::Both);
                None
            }
        }
    }
}
