//! The open connections between worker 0 and the others: heartbeats both ways, and who was lost.
//! Carries no numbers, and decides nothing about a run.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fate::{Fate, How, Loss};
use super::word::Word;
use super::{BEAT, LOST_AFTER};

/// How long the end waits for the others to hear of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// This process's connections: to all others at worker 0, to worker 0 at the others.
#[derive(Debug)]
pub(super) struct Control {
    peers: Arc<Peers>,
    fate: Arc<Fate>,
    worker: usize,
    /// Nothing is ever sent: readers and the beat drop their ends when they end.
    ended: Mutex<Receiver<()>>,
    _open: Sender<()>,
}

#[derive(Debug)]
struct Peers {
    streams: Vec<(usize, Mutex<TcpStream>)>,
    /// Held by who learns of a loss until it has passed that on, and by who closes the connections.
    saying: Mutex<()>,
}

impl Peers {
    fn saying(&self) -> MutexGuard<'_, ()> {
        self.saying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a loss, and tells it to all but one; to nobody where there is nobody to leave out.
    fn pass_on(&self, loss: Loss, fate: &Fate, except: Option<usize>) {
        let _saying = self.saying();
        if fate.lose(loss.clone())
            && let Some(except) = except
        {
            self.tell(&Word::Lost(loss), Some(except));
        }
    }

    /// A peer that does not hear is found out by who listens to it.
    fn tell(&self, word: &Word, except: Option<usize>) {
        for (_, stream) in self
            .streams
            .iter()
            .filter(|(worker, _)| Some(*worker) != except)
        {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = word.write(&mut *stream);
        }
    }

    fn shut(&self, how: Shutdown) {
        for (_, stream) in &self.streams {
            let _ = stream
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .shutdown(how);
        }
    }
}

impl Control {
    /// Listens to the peers from now on, and lets them hear of this worker.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(
        peers: Vec<(usize, TcpStream)>,
        fate: Arc<Fate>,
        (worker, devices): (usize, usize),
    ) -> std::io::Result<Self> {
        let (alive, ended) = channel();
        let (open, closed) = channel::<()>();
        let mut readers = Vec::new();

        for (peer, stream) in &peers {
            stream.set_read_timeout(Some(LOST_AFTER))?;
            stream.set_write_timeout(Some(LOST_AFTER))?;
            readers.push((*peer, stream.try_clone()?));
        }

        let peers = peers
            .into_iter()
            .map(|(peer, stream)| (peer, Mutex::new(stream)));

        let peers = Arc::new(Peers {
            streams: peers.collect(),
            saying: Mutex::default(),
        });

        for (peer, stream) in readers {
            let peers = peers.clone();
            let fate = fate.clone();
            let alive = alive.clone();
            let listen = move || {
                if let Some(loss) = listen(&stream, peer, devices, &fate) {
                    peers.pass_on(loss, &fate, Some(peer).filter(|_| worker == 0));
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
            while closed.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                beats.tell(&Word::Beat, None);
            }
        };

        std::thread::Builder::new()
            .name("beat".into())
            .spawn(beat)?;

        Ok(Self {
            peers,
            fate,
            worker,
            ended: Mutex::new(ended),
            _open: open,
        })
    }

    /// Says that a rank of this worker ended, and why.
    pub(super) fn end(&self, rank: usize, why: &str) {
        let how = How::Ended(why.to_string());
        let loss = Loss {
            worker: self.worker,
            ranks: rank..rank + 1,
            step: self.fate.step(),
            how,
        };

        self.peers.pass_on(loss, &self.fate, Some(self.worker));
    }

    /// Closes the connections once the others have heard what was said: the end of all, or why this
    /// worker ended.
    pub(super) fn close(&self) {
        {
            let _said = self.peers.saying();
            if !self.fate.lost() {
                self.fate.end();
                self.peers.tell(&Word::Done, None);
            }

            self.peers.shut(Shutdown::Write);
        }

        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(PATIENCE);
    }
}

/// Listens to a peer until it has nothing more to say; what is lost, if anything is.
fn listen(mut from: &TcpStream, peer: usize, devices: usize, fate: &Fate) -> Option<Loss> {
    loop {
        let how = match Word::read(&mut from) {
            Ok(Word::Beat) => continue,
            Ok(Word::Lost(loss)) => return Some(loss),
            Ok(Word::Done) => {
                // It saw the last meeting of all ranks, so this process will too.
                return None;
            }
            Err(error) if is_timeout(error.kind()) => How::Silent(LOST_AFTER.as_secs()),
            Ok(_) | Err(_) => How::Gone,
        };

        let ranks: Range<usize> = peer * devices..(peer + 1) * devices;
        return Some(Loss {
            worker: peer,
            ranks,
            step: fate.step(),
            how,
        });
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
