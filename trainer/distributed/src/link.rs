//! One direction between two neighbours of a ring: pieces of memory that go there full and come back
//! empty, over a channel or, pumped by threads, over TCP. Never knows what is in them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytemuck::{Pod, cast_slice, cast_slice_mut};

use super::abort_state::{AbortState, LossCause};
use super::{HEARTBEAT_TIMEOUT, STUCK_TIMEOUT};

/// What travels at once: large enough for few meetings, small enough to overlap.
pub(super) const CHUNK_BYTES: usize = 1 << 18;
/// Pieces of a channel.
const CHUNKS_PER_LINK: usize = 3;
/// How often who waits looks up.
const LINK_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Memory that is lent: words, so that numbers of any kind lie well in it.
#[derive(Debug)]
struct LinkChunk {
    words: Box<[u64]>,
    byte_len: usize,
}

impl LinkChunk {
    fn new() -> Self {
        Self {
            words: vec![0; CHUNK_BYTES / size_of::<u64>()].into(),
            byte_len: 0,
        }
    }

    fn reserve_bytes(&mut self, bytes: usize) -> &mut [u8] {
        self.byte_len = bytes;
        &mut cast_slice_mut(&mut self.words)[..bytes]
    }

    fn as_bytes(&self) -> &[u8] {
        &cast_slice(&self.words)[..self.byte_len]
    }

    fn as_values<T: Pod>(&self) -> &[T] {
        &cast_slice(&self.words)[..self.byte_len / size_of::<T>()]
    }
}

/// Nothing will come any more; the fate may know better why.
#[derive(Debug)]
pub(super) struct LinkBroken(pub(super) LossCause);

/// Where pieces go in.
#[derive(Debug)]
pub(super) struct LinkSender {
    full: SyncSender<LinkChunk>,
    empty: Receiver<LinkChunk>,
    // Dropped last: what is in the box is still written.
    stream: Option<LinkStream>,
}

/// Where pieces come out.
#[derive(Debug)]
pub(super) struct LinkReceiver {
    full: Receiver<LinkChunk>,
    empty: SyncSender<LinkChunk>,
    stream: Option<LinkStream>,
}

/// A link between two threads.
pub(super) fn create_link() -> (LinkSender, LinkReceiver) {
    let (full, filled) = sync_channel(CHUNKS_PER_LINK);
    let (emptied, empty) = sync_channel(CHUNKS_PER_LINK);
    for _ in 0..CHUNKS_PER_LINK {
        // There is room, and the other end is here.
        let _ = emptied.send(LinkChunk::new());
    }

    (
        LinkSender {
            full,
            empty,
            stream: None,
        },
        LinkReceiver {
            full: filled,
            empty: emptied,
            stream: None,
        },
    )
}

impl LinkSender {
    /// Sends at most [`PIECE_BYTES`] of values.
    pub(super) fn send_values<T: Pod>(
        &self,
        values: &[T],
        fate: &AbortState,
    ) -> Result<(), LinkBroken> {
        let mut piece = wait_for_chunk(&self.empty, fate)?;
        let bytes: &[u8] = cast_slice(values);
        piece.reserve_bytes(bytes.len()).copy_from_slice(bytes);
        self.full
            .send(piece)
            .map_err(|_| LinkBroken(LossCause::Cut))
    }
}

impl LinkReceiver {
    /// Hands over the next values, as many as are expected.
    pub(super) fn receive_values<T: Pod>(
        &self,
        expected: usize,
        fate: &AbortState,
        take: impl FnOnce(&[T]),
    ) -> Result<(), LinkBroken> {
        let piece = wait_for_chunk(&self.full, fate)?;
        if piece.byte_len != expected * size_of::<T>() {
            return Err(LinkBroken(LossCause::Cut));
        }

        take(piece.as_values());
        // A neighbour that left needs no memory back.
        let _ = self.empty.send(piece);
        Ok(())
    }
}

/// Waits for a piece until there is one, somebody is lost, or it has been too long.
fn wait_for_chunk(from: &Receiver<LinkChunk>, fate: &AbortState) -> Result<LinkChunk, LinkBroken> {
    let start = Instant::now();
    loop {
        match from.recv_timeout(LINK_POLL_INTERVAL) {
            Ok(piece) => return Ok(piece),
            Err(RecvTimeoutError::Timeout)
                if !fate.is_lost() && start.elapsed() < STUCK_TIMEOUT => {}
            Err(RecvTimeoutError::Timeout) => {
                return Err(LinkBroken(LossCause::Stuck(STUCK_TIMEOUT.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => {
                // Worker 0 knows more than who only sees a closed connection.
                fate.wait_for_loss(HEARTBEAT_TIMEOUT + Duration::from_secs(2));
                return Err(LinkBroken(LossCause::Cut));
            }
        }
    }
}

/// The connection under a link; dropping it ends the link.
#[derive(Debug)]
struct LinkStream {
    stream: TcpStream,
    writer: Option<JoinHandle<()>>,
    abort_state: Arc<AbortState>,
}

/// A link that goes on in another process: what is put into it is written by a thread.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn start_outgoing_link(
    stream: TcpStream,
    fate: Arc<AbortState>,
) -> std::io::Result<LinkSender> {
    let (mut outbox, inbox) = create_link();
    let mut to = stream.try_clone()?;
    let write = move || {
        for piece in &inbox.full {
            let length = (piece.byte_len as u32).to_le_bytes();
            if to
                .write_all(&length)
                .and_then(|()| to.write_all(piece.as_bytes()))
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

    outbox.stream = Some(LinkStream {
        stream,
        writer,
        abort_state: fate,
    });

    Ok(outbox)
}

/// A link that comes from another process: a thread reads what will be taken out of it.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn start_incoming_link(
    stream: TcpStream,
    fate: Arc<AbortState>,
) -> std::io::Result<LinkReceiver> {
    let (outbox, mut inbox) = create_link();
    let mut from = stream.try_clone()?;
    let read = move || {
        while let Ok(mut piece) = outbox.empty.recv() {
            if read_chunk(&mut piece, &mut from).is_err() || outbox.full.send(piece).is_err() {
                return;
            }
        }
    };

    std::thread::Builder::new()
        .name("ring-in".into())
        .spawn(read)?;

    inbox.stream = Some(LinkStream {
        stream,
        writer: None,
        abort_state: fate,
    });

    Ok(inbox)
}

fn read_chunk(piece: &mut LinkChunk, from: &mut impl Read) -> std::io::Result<()> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    match u32::from_le_bytes(length) as usize {
        length if length <= CHUNK_BYTES => from.read_exact(piece.reserve_bytes(length)),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

impl Drop for LinkStream {
    /// Waits until what was sent is written, unless somebody is lost.
    fn drop(&mut self) {
        if self.abort_state.is_lost() || self.writer.is_none() {
            // It may be closed already.
            let _ = self.stream.shutdown(Shutdown::Both);
        }

        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }
}
