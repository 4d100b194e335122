//! The control plane: open connections between worker 0 and each other worker, with heartbeats both ways
//! and failures. Carries no values, and decides nothing about a run.
//!
//! A star around worker 0, because a worker cannot tell by itself whether its neighbour died or only the
//! connection between the two broke; a process that watches all of them can. Failures of worker 0 itself
//! are seen by every other worker.
//!
//! # Threads
//! One thread listens to each peer; one sends heartbeats to all. None is joined: they end when their
//! connection is closed or the control plane is dropped.
//!
//! # Lock order
//! `announcing`, then a stream's lock, then that of the abort state. Heartbeats take a stream's lock alone,
//! so a failure that is being announced never waits for more than one message.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cnclip_compute::sync::lock_ignoring_poison;

use crate::abort_state::{AbortState, FailureCause, WorkerFailure};
use crate::control_message::ControlMessage;
use crate::topology::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, WorkerTopology, ranks_of_worker};

/// How long a worker waits at the end for its peers to close their connections: long enough for a message
/// on its way, short enough not to delay the exit where a peer died.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to another worker.
pub(super) struct PeerConnection {
    pub(super) worker: usize,
    pub(super) stream: TcpStream,
}

/// This process's connections: to all others at worker 0, to worker 0 at the others.
#[derive(Debug)]
pub(super) struct ControlPlane {
    peers: Arc<PeerStreams>,
    abort_state: Arc<AbortState>,
    worker: usize,
    /// Nothing is ever sent: it is disconnected once the last listener has ended.
    listeners_ended: Mutex<Receiver<()>>,
    /// Dropped with the control plane, which ends the heartbeat.
    _heartbeat_guard: Sender<()>,
}

#[derive(Debug)]
struct PeerStreams {
    streams: Vec<PeerStream>,
    /// Held from recording a failure until it was sent to all peers, and while the connections are closed:
    /// a process must not close them between the two, or its peers would see a closed connection
    /// instead of the reason.
    announcing: Mutex<()>,
}

#[derive(Debug)]
struct PeerStream {
    worker: usize,
    /// Locked for each message, because several threads send.
    stream: Mutex<TcpStream>,
}

impl PeerStream {
    fn lock_stream(&self) -> MutexGuard<'_, TcpStream> {
        lock_ignoring_poison(&self.stream)
    }
}

impl PeerStreams {
    fn lock_announcing(&self) -> MutexGuard<'_, ()> {
        lock_ignoring_poison(&self.announcing)
    }

    /// Records a failure without sending it on.
    fn record_failure(&self, failure: WorkerFailure, abort_state: &AbortState) {
        let _announcing = self.lock_announcing();
        abort_state.record_failure(failure);
    }

    /// Records a failure and, if it is the first, sends it to all peers but one.
    fn propagate_failure(&self, failure: WorkerFailure, abort_state: &AbortState, except: usize) {
        let _announcing = self.lock_announcing();
        if abort_state.record_failure(failure.clone()) {
            self.broadcast_message(&ControlMessage::Failed(failure), Some(except));
        }
    }

    /// Sends a message to all peers but one. Errors are ignored: the listener of a peer that is gone
    /// detects that by itself.
    fn broadcast_message(&self, message: &ControlMessage, except: Option<usize>) {
        for peer in &self.streams {
            if Some(peer.worker) != except {
                let _ = message.write_to(&mut *peer.lock_stream());
            }
        }
    }

    fn shutdown_streams(&self, how: Shutdown) {
        for peer in &self.streams {
            let _ = peer.lock_stream().shutdown(how);
        }
    }
}

impl ControlPlane {
    /// Starts to listen to the peers, and to send heartbeats to them.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start_heartbeat(
        peers: Vec<PeerConnection>,
        abort_state: Arc<AbortState>,
        topology: WorkerTopology,
    ) -> std::io::Result<Self> {
        let (listening, listeners_ended) = channel();
        let mut listeners = Vec::new();
        let mut streams = Vec::new();
        for PeerConnection { worker, stream } in peers {
            // A read that times out is a peer without heartbeats. A write that does is a peer whose buffers
            // are full, so it does not read either.
            stream.set_read_timeout(Some(HEARTBEAT_TIMEOUT))?;
            stream.set_write_timeout(Some(HEARTBEAT_TIMEOUT))?;
            listeners.push(PeerConnection {
                worker,
                stream: stream.try_clone()?,
            });

            streams.push(PeerStream {
                worker,
                stream: Mutex::new(stream),
            });
        }

        let peers = Arc::new(PeerStreams {
            streams,
            announcing: Mutex::default(),
        });

        for connection in listeners {
            let listener = PeerListener {
                connection,
                peers: Arc::clone(&peers),
                abort_state: Arc::clone(&abort_state),
                topology,
                _listening: listening.clone(),
            };

            std::thread::Builder::new()
                .name("listen".into())
                .spawn(move || listener.listen())?;
        }

        // `listening` is dropped on return, so only the listeners keep its channel connected.
        let heartbeat_guard = spawn_heartbeat(Arc::clone(&peers))?;
        Ok(Self {
            peers,
            abort_state,
            worker: topology.worker,
            listeners_ended: Mutex::new(listeners_ended),
            _heartbeat_guard: heartbeat_guard,
        })
    }

    /// Reports that a rank of this worker ends with an error.
    pub(super) fn announce_failure(&self, rank: usize, error: &str) {
        let failure = WorkerFailure {
            worker: self.worker,
            ranks: rank..rank + 1,
            step: self.abort_state.current_step(),
            cause: FailureCause::Reported(error.to_string()),
        };

        // No peer has this worker's number, so nobody is left out.
        self.peers
            .propagate_failure(failure, &self.abort_state, self.worker);
    }

    /// Closes the connections once the peers have received the last message: that all is done, or why this
    /// worker ended.
    ///
    /// In this order: the message; then the write half, so that a peer reads the message before the end of
    /// the stream; then this waits until the listeners have read the same from the peers.
    pub(super) fn close_connections(&self) {
        {
            let _announcing = self.peers.lock_announcing();
            if !self.abort_state.has_failure() {
                self.abort_state.mark_finished();
                self.peers.broadcast_message(&ControlMessage::Done, None);
            }

            self.peers.shutdown_streams(Shutdown::Write);
        }

        let listeners_ended = lock_ignoring_poison(&self.listeners_ended);
        let _ = listeners_ended.recv_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// The thread that sends heartbeats: ends when the returned end of a channel is dropped.
fn spawn_heartbeat(peers: Arc<PeerStreams>) -> std::io::Result<Sender<()>> {
    let (guard, closed) = channel::<()>();
    let beat = move || {
        while closed.recv_timeout(HEARTBEAT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            peers.broadcast_message(&ControlMessage::Heartbeat, None);
        }
    };

    std::thread::Builder::new()
        .name("heartbeat".into())
        .spawn(beat)?;
    Ok(guard)
}

/// Listens to one peer.
struct PeerListener {
    connection: PeerConnection,
    peers: Arc<PeerStreams>,
    abort_state: Arc<AbortState>,
    topology: WorkerTopology,
    /// Dropped when the listener ends.
    _listening: Sender<()>,
}

impl PeerListener {
    fn listen(self) {
        if let Some(failure) = self.wait_for_end() {
            self.pass_on(failure);
        }

        let _ = self.connection.stream.shutdown(Shutdown::Both);
    }

    /// Worker 0 passes a failure on to everybody but the peer that it came from. The others have no peer
    /// but worker 0, so they only record it.
    fn pass_on(&self, failure: WorkerFailure) {
        if self.topology.worker == 0 {
            let source = self.connection.worker;
            self.peers
                .propagate_failure(failure, &self.abort_state, source);
        } else {
            self.peers.record_failure(failure, &self.abort_state);
        }
    }

    /// Reads until the peer is done or a failure is found.
    fn wait_for_end(&self) -> Option<WorkerFailure> {
        let mut stream = &self.connection.stream;
        loop {
            let cause = match ControlMessage::read_from(&mut stream) {
                Ok(ControlMessage::Heartbeat) => continue,
                Ok(ControlMessage::Failed(failure)) => return Some(failure),
                // It passed the last barrier of all ranks, so this process will too.
                Ok(ControlMessage::Done) => return None,
                Err(error) if is_timeout(error.kind()) => {
                    FailureCause::HeartbeatTimeout(HEARTBEAT_TIMEOUT.as_secs())
                }
                // A message out of place is as good as none: its sender does not follow the protocol.
                Ok(_) | Err(_) => FailureCause::ConnectionClosed,
            };

            let peer = self.connection.worker;
            return Some(WorkerFailure {
                worker: peer,
                ranks: ranks_of_worker(peer, self.topology.devices),
                step: self.abort_state.current_step(),
                cause,
            });
        }
    }
}

/// Which of the two a read timeout gives depends on the platform.
fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
