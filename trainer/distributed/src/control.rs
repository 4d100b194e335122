//! The open connections between worker 0 and the others: heartbeats both ways, and who was lost.
//! Carries no numbers, and decides nothing about a run.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::abort_state::{AbortState, LossCause, WorkerLost};
use super::control_message::ControlMessage;
use super::{HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT};

/// How long the end waits for the others to hear of it.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// This process's connections: to all others at worker 0, to worker 0 at the others.
#[derive(Debug)]
pub(super) struct ControlPlane {
    peers: Arc<PeerStreams>,
    abort_state: Arc<AbortState>,
    worker: usize,
    /// Nothing is ever sent: readers and the beat drop their ends when they end.
    ended: Mutex<Receiver<()>>,
    _open: Sender<()>,
}

#[derive(Debug)]
struct PeerStreams {
    streams: Vec<(usize, Mutex<TcpStream>)>,
    /// Held by who learns of a loss until it has passed that on, and by who closes the connections.
    announcing: Mutex<()>,
}

impl PeerStreams {
    fn lock_announcing(&self) -> MutexGuard<'_, ()> {
        self.announcing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a loss, and tells it to all but one; to nobody where there is nobody to leave out.
    fn propagate_loss(&self, loss: WorkerLost, fate: &AbortState, except: Option<usize>) {
        let _saying = self.lock_announcing();
        if fate.record_loss(loss.clone())
            && let Some(except) = except
        {
            self.broadcast_message(&ControlMessage::Lost(loss), Some(except));
        }
    }

    /// A peer that does not hear is found out by who listens to it.
    fn broadcast_message(&self, word: &ControlMessage, except: Option<usize>) {
        for (_, stream) in self
            .streams
            .iter()
            .filter(|(worker, _)| Some(*worker) != except)
        {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = word.write_to(&mut *stream);
        }
    }

    fn shutdown_streams(&self, how: Shutdown) {
        for (_, stream) in &self.streams {
            let _ = stream
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .shutdown(how);
        }
    }
}

impl ControlPlane {
    /// Listens to the peers from now on, and lets them hear of this worker.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start_heartbeat(
        peers: Vec<(usize, TcpStream)>,
        fate: Arc<AbortState>,
        (worker, devices): (usize, usize),
    ) -> std::io::Result<Self> {
        let (alive, ended) = channel();
        let (open, closed) = channel::<()>();
        let mut readers = Vec::new();

        for (peer, stream) in &peers {
            stream.set_read_timeout(Some(HEARTBEAT_TIMEOUT))?;
            stream.set_write_timeout(Some(HEARTBEAT_TIMEOUT))?;
            readers.push((*peer, stream.try_clone()?));
        }

        let peers = peers
            .into_iter()
            .map(|(peer, stream)| (peer, Mutex::new(stream)));

        let peers = Arc::new(PeerStreams {
            streams: peers.collect(),
            announcing: Mutex::default(),
        });

        for (peer, stream) in readers {
            let peers = peers.clone();
            let fate = fate.clone();
            let alive = alive.clone();
            let listen = move || {
                if let Some(loss) = monitor_peer(&stream, peer, devices, &fate) {
                    peers.propagate_loss(loss, &fate, Some(peer).filter(|_| worker == 0));
                }

                let _ = stream.shutdown(Shutdown::Both);
                drop(alive);
            };

            std::thread::Builder::new()
                .name("listen".into())
                .spawn(listen)?;
        }

        let beats = peers.clone();
        let beat = move || {
            while closed.recv_timeout(HEARTBEAT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                beats.broadcast_message(&ControlMessage::Beat, None);
            }
        };

        std::thread::Builder::new()
            .name("beat".into())
            .spawn(beat)?;

        Ok(Self {
            peers,
            abort_state: fate,
            worker,
            ended: Mutex::new(ended),
            _open: open,
        })
    }

    /// Says that a rank of this worker ended, and why.
    pub(super) fn announce_failure(&self, rank: usize, why: &str) {
        let how = LossCause::Ended(why.to_string());
        let loss = WorkerLost {
            worker: self.worker,
            ranks: rank..rank + 1,
            step: self.abort_state.current_step(),
            how,
        };

        self.peers
            .propagate_loss(loss, &self.abort_state, Some(self.worker));
    }

    /// Closes the connections once the others have heard what was said: the end of all, or why this
    /// worker ended.
    pub(super) fn close_connections(&self) {
        {
            let _said = self.peers.lock_announcing();
            if !self.abort_state.is_lost() {
                self.abort_state.mark_finished();
                self.peers.broadcast_message(&ControlMessage::Done, None);
            }

            self.peers.shutdown_streams(Shutdown::Write);
        }

        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// Listens to a peer until it has nothing more to say; what is lost, if anything is.
fn monitor_peer(
    mut from: &TcpStream,
    peer: usize,
    devices: usize,
    fate: &AbortState,
) -> Option<WorkerLost> {
    loop {
        let how = match ControlMessage::read_from(&mut from) {
            Ok(ControlMessage::Beat) => continue,
            Ok(ControlMessage::Lost(loss)) => return Some(loss),
            Ok(ControlMessage::Done) => {
                // It saw the last meeting of all ranks, so this process will too.
                return None;
            }
            Err(error) if is_timeout(error.kind()) => {
                LossCause::Silent(HEARTBEAT_TIMEOUT.as_secs())
            }
            Ok(_) | Err(_) => LossCause::Gone,
        };

        let ranks: Range<usize> = peer * devices..(peer + 1) * devices;
        return Some(WorkerLost {
            worker: peer,
            ranks,
            step: fate.current_step(),
            how,
        });
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
