//! One direction between two neighbours of a ring: pieces of memory that go there full and come back
//! empty, over a channel or, pumped by threads, over TCP. Never knows what is in them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytemuck::{Pod, cast_slice, cast_slice_mut};

use super::fate::{Fate, How};
use super::{LOST_AFTER, STUCK_AFTER};

/// What travels at once: large enough for few meetings, small enough to overlap.
pub(super) const PIECE_BYTES: usize = 1 << 18;
/// Pieces of a channel.
const PIECES: usize = 3;
/// How often who waits looks up.
const TICK: Duration = Duration::from_millis(50);

/// Memory that is lent: words, so that numbers of any kind lie well in it.
#[derive(Debug)]
struct Piece {
    words: Box<[u64]>,
    bytes: usize,
}

impl Piece {
    fn new() -> Self {
        Self {
            words: vec![0; PIECE_BYTES / size_of::<u64>()].into(),
            bytes: 0,
        }
    }

    fn reserve(&mut self, bytes: usize) -> &mut [u8] {
        self.bytes = bytes;
        &mut cast_slice_mut(&mut self.words)[..bytes]
    }

    fn bytes(&self) -> &[u8] {
        &cast_slice(&self.words)[..self.bytes]
    }

    fn values<T: Pod>(&self) -> &[T] {
        &cast_slice(&self.words)[..self.bytes / size_of::<T>()]
    }
}

/// Nothing will come any more; the fate may know better why.
#[derive(Debug)]
pub(super) struct Broken(pub(super) How);

/// Where pieces go in.
#[derive(Debug)]
pub(super) struct Outbox {
    full: SyncSender<Piece>,
    empty: Receiver<Piece>,
    // Dropped last: what is in the box is still written.
    wire: Option<Wire>,
}

/// Where pieces come out.
#[derive(Debug)]
pub(super) struct Inbox {
    full: Receiver<Piece>,
    empty: SyncSender<Piece>,
    wire: Option<Wire>,
}

/// A link between two threads.
pub(super) fn channel() -> (Outbox, Inbox) {
    let (full, filled) = sync_channel(PIECES);
    let (emptied, empty) = sync_channel(PIECES);
    for _ in 0..PIECES {
        // There is room, and the other end is here.
        let _ = emptied.send(Piece::new());
    }

    (
        Outbox {
            full,
            empty,
            wire: None,
        },
        Inbox {
            full: filled,
            empty: emptied,
            wire: None,
        },
    )
}

impl Outbox {
    /// Sends at most [`PIECE_BYTES`] of values.
    pub(super) fn send<T: Pod>(&self, values: &[T], fate: &Fate) -> Result<(), Broken> {
        let mut piece = wait(&self.empty, fate)?;
        let bytes: &[u8] = cast_slice(values);
        piece.reserve(bytes.len()).copy_from_slice(bytes);
        self.full.send(piece).map_err(|_| Broken(How::Cut))
    }
}

impl Inbox {
    /// Hands over the next values, as many as are expected.
    pub(super) fn receive<T: Pod>(
        &self,
        expected: usize,
        fate: &Fate,
        take: impl FnOnce(&[T]),
    ) -> Result<(), Broken> {
        let piece = wait(&self.full, fate)?;
        if piece.bytes != expected * size_of::<T>() {
            return Err(Broken(How::Cut));
        }

        take(piece.values());
        // A neighbour that left needs no memory back.
        let _ = self.empty.send(piece);
        Ok(())
    }
}

/// Waits for a piece until there is one, somebody is lost, or it has been too long.
fn wait(from: &Receiver<Piece>, fate: &Fate) -> Result<Piece, Broken> {
    let start = Instant::now();
    loop {
        match from.recv_timeout(TICK) {
            Ok(piece) => return Ok(piece),
            Err(RecvTimeoutError::Timeout) if !fate.lost() && start.elapsed() < STUCK_AFTER => {}
            Err(RecvTimeoutError::Timeout) => {
                return Err(Broken(How::Stuck(STUCK_AFTER.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => {
                // Worker 0 knows more than who only sees a closed connection.
                fate.wait(LOST_AFTER + Duration::from_secs(2));
                return Err(Broken(How::Cut));
            }
        }
    }
}

/// The connection under a link; dropping it ends the link.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    writer: Option<JoinHandle<()>>,
    fate: Arc<Fate>,
}

/// A link that goes on in another process: what is put into it is written by a thread.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn outgoing(stream: TcpStream, fate: Arc<Fate>) -> std::io::Result<Outbox> {
    let (mut outbox, inbox) = channel();
    let mut to = stream.try_clone()?;
    let write = move || {
        for piece in &inbox.full {
            let length = (piece.bytes as u32).to_le_bytes();
            if to
                .write_all(&length)
                .and_then(|()| to.write_all(piece.bytes()))
                .is_err()
            {
                return;
            }

            // Who sends no more needs no memory back, but what it sent is still to be written.
            let _ = inbox.empty.send(piece);
        }
    };

    let writer = Some(
        std::thread::Builder::new()
            .name("ring-out".into())
            .spawn(write)?,
    );

    outbox.wire = Some(Wire {
        stream,
        writer,
        fate,
    });

    Ok(outbox)
}

/// A link that comes from another process: a thread reads what will be taken out of it.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn incoming(stream: TcpStream, fate: Arc<Fate>) -> std::io::Result<Inbox> {
    let (outbox, mut inbox) = channel();
    let mut from = stream.try_clone()?;
    let read = move || {
        while let Ok(mut piece) = outbox.empty.recv() {
            if fill(&mut piece, &mut from).is_err() || outbox.full.send(piece).is_err() {
                return;
            }
        }
    };

    std::thread::Builder::new()
        .name("ring-in".into())
        .spawn(read)?;

    inbox.wire = Some(Wire {
        stream,
        writer: None,
        fate,
    });

    Ok(inbox)
}

fn fill(piece: &mut Piece, from: &mut impl Read) -> std::io::Result<()> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    match u32::from_le_bytes(length) as usize {
        length if length <= PIECE_BYTES => from.read_exact(piece.reserve(length)),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

impl Drop for Wire {
    /// Waits until what was sent is written, unless somebody is lost.
    fn drop(&mut self) {
        if self.fate.lost() || self.writer.is_none() {
            // It may be closed already.
            let _ = self.stream.shutdown(Shutdown::Both);
        }

        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }
}
