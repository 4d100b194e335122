//! One direction between two neighbours of a ring: chunks of memory that travel full and come back empty,
//! over a channel inside a process or, pumped by threads, over TCP. Knows nothing of their content.
//!
//! A link has a fixed number of chunks, so a fast sender waits for a slow receiver instead of filling
//! memory, and no step allocates any.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytemuck::{Pod, cast_slice, cast_slice_mut};

use crate::abort_state::{AbortState, FailureCause};
use crate::topology::{HEARTBEAT_TIMEOUT, STUCK_TIMEOUT};

/// Bytes that travel at once, 256 KiB: enough that handing over a chunk costs little against copying it,
/// and small enough that the hops around the ring overlap.
pub(super) const CHUNK_BYTES: usize = 1 << 18;

/// Chunks of a link: one being filled, one on its way, one being read.
const CHUNKS_PER_LINK: usize = 3;

/// How often a waiting rank checks whether another has failed.
const LINK_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How much longer than a heartbeat timeout a rank with a broken link waits for the reason, so that the
/// message about it can arrive.
const ANNOUNCEMENT_GRACE: Duration = Duration::from_secs(2);

/// Counts while a rank waits for its neighbours: a count that stands still means that the rank does not wait.
#[derive(Debug, Default)]
pub(super) struct WaitTicks(AtomicU64);

impl WaitTicks {
    fn advance(&self) {
        // Relaxed: a sign of life, which orders nothing else.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A buffer that goes to and fro on a link. Made of `u64`, so that values of every type are aligned in it.
#[derive(Debug)]
struct LinkChunk {
    buffer: Box<[u64]>,
    byte_len: usize,
}

impl LinkChunk {
    fn new() -> Self {
        Self {
            buffer: vec![0; CHUNK_BYTES / size_of::<u64>()].into(),
            byte_len: 0,
        }
    }

    fn reserve_bytes(&mut self, byte_len: usize) -> &mut [u8] {
        self.byte_len = byte_len;
        &mut cast_slice_mut(&mut self.buffer)[..byte_len]
    }

    fn as_bytes(&self) -> &[u8] {
        &cast_slice(&self.buffer)[..self.byte_len]
    }

    fn as_values<T: Pod>(&self) -> &[T] {
        &cast_slice(&self.buffer)[..self.byte_len / size_of::<T>()]
    }
}

/// The link is of no more use; the abort state may know a better reason.
#[derive(Debug)]
pub(super) struct LinkBroken(pub(super) FailureCause);

/// The end that values go into.
#[derive(Debug)]
pub(super) struct LinkSender {
    full: SyncSender<LinkChunk>,
    empty: Receiver<LinkChunk>,
    // Declared, and so dropped, last: `full` is closed by then, and the writer ends after it has written
    // what is still in the channel.
    stream: Option<LinkStream>,
}

/// The end that values come out of.
#[derive(Debug)]
pub(super) struct LinkReceiver {
    full: Receiver<LinkChunk>,
    empty: SyncSender<LinkChunk>,
    stream: Option<LinkStream>,
}

/// A link between two threads.
pub(super) fn create_link() -> (LinkSender, LinkReceiver) {
    let (full_sender, full_receiver) = sync_channel(CHUNKS_PER_LINK);
    let (empty_sender, empty_receiver) = sync_channel(CHUNKS_PER_LINK);
    for _ in 0..CHUNKS_PER_LINK {
        // The channel has capacity for all, and its receiver is right here.
        let _ = empty_sender.send(LinkChunk::new());
    }

    let sender = LinkSender {
        full: full_sender,
        empty: empty_receiver,
        stream: None,
    };

    let receiver = LinkReceiver {
        full: full_receiver,
        empty: empty_sender,
        stream: None,
    };

    (sender, receiver)
}

impl LinkSender {
    /// Sends at most [`CHUNK_BYTES`] of values.
    pub(super) fn send_values<T: Pod>(
        &self,
        values: &[T],
        abort_state: &AbortState,
        ticks: &WaitTicks,
    ) -> Result<(), LinkBroken> {
        let mut chunk = wait_for_chunk(&self.empty, abort_state, ticks)?;
        let bytes: &[u8] = cast_slice(values);
        chunk.reserve_bytes(bytes.len()).copy_from_slice(bytes);
        self.full
            .send(chunk)
            .map_err(|_| LinkBroken(FailureCause::LinkBroken))
    }
}

impl LinkReceiver {
    /// Passes the next values to `take`.
    pub(super) fn receive_values<T: Pod>(
        &self,
        expected_len: usize,
        abort_state: &AbortState,
        ticks: &WaitTicks,
        take: impl FnOnce(&[T]),
    ) -> Result<(), LinkBroken> {
        let chunk = wait_for_chunk(&self.full, abort_state, ticks)?;
        // The neighbour is at another collective: what it sends cannot be used.
        if chunk.byte_len != expected_len * size_of::<T>() {
            return Err(LinkBroken(FailureCause::LinkBroken));
        }

        take(chunk.as_values());
        // A neighbour that has ended needs no memory back.
        let _ = self.empty.send(chunk);
        Ok(())
    }
}

/// Waits until there is a chunk, a rank has failed, or nothing has come for too long.
fn wait_for_chunk(
    chunks: &Receiver<LinkChunk>,
    abort_state: &AbortState,
    ticks: &WaitTicks,
) -> Result<LinkChunk, LinkBroken> {
    let start = Instant::now();
    loop {
        ticks.advance();
        match chunks.recv_timeout(LINK_POLL_INTERVAL) {
            Ok(chunk) => return Ok(chunk),
            Err(RecvTimeoutError::Timeout)
                if !abort_state.has_failure() && start.elapsed() < STUCK_TIMEOUT => {}
            Err(RecvTimeoutError::Timeout) => {
                return Err(LinkBroken(FailureCause::Stuck(STUCK_TIMEOUT.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => {
                // The ring breaks at once, while worker 0 may find the reason only after a heartbeat timeout.
                // Its reason is the better one: a rank may end because of a failure elsewhere.
                abort_state.wait_for_failure(HEARTBEAT_TIMEOUT + ANNOUNCEMENT_GRACE);
                return Err(LinkBroken(FailureCause::LinkBroken));
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

/// A link to another process: a thread writes what is put into it.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn start_outgoing_link(
    stream: TcpStream,
    abort_state: Arc<AbortState>,
) -> std::io::Result<LinkSender> {
    let (mut sender, receiver) = create_link();
    let mut target = stream.try_clone()?;
    let write = move || {
        for chunk in &receiver.full {
            if write_chunk(&chunk, &mut target).is_err() {
                return;
            }

            // The sender may be gone already; what it sent is still to be written.
            let _ = receiver.empty.send(chunk);
        }
    };

    let writer = std::thread::Builder::new()
        .name("ring-out".into())
        .spawn(write)?;

    sender.stream = Some(LinkStream {
        stream,
        writer: Some(writer),
        abort_state,
    });

    Ok(sender)
}

/// A link from another process: a thread reads what comes out of it.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn start_incoming_link(
    stream: TcpStream,
    abort_state: Arc<AbortState>,
) -> std::io::Result<LinkReceiver> {
    let (sender, mut receiver) = create_link();
    let mut source = stream.try_clone()?;
    let read = move || {
        while let Ok(mut chunk) = sender.empty.recv() {
            if read_chunk(&mut chunk, &mut source).is_err() || sender.full.send(chunk).is_err() {
                return;
            }
        }
    };

    // Not joined: it may wait for its peer, and ends when the stream is shut down.
    std::thread::Builder::new()
        .name("ring-in".into())
        .spawn(read)?;

    receiver.stream = Some(LinkStream {
        stream,
        writer: None,
        abort_state,
    });

    Ok(receiver)
}

/// A chunk on the wire: its length in bytes, then the values in native byte order. All workers run the same
/// version on the same architecture.
fn write_chunk(chunk: &LinkChunk, target: &mut impl Write) -> std::io::Result<()> {
    let length = (chunk.byte_len as u32).to_le_bytes();
    target.write_all(&length)?;
    target.write_all(chunk.as_bytes())
}

fn read_chunk(chunk: &mut LinkChunk, source: &mut impl Read) -> std::io::Result<()> {
    let mut length = [0; 4];
    source.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > CHUNK_BYTES {
        return Err(ErrorKind::InvalidData.into());
    }

    source.read_exact(chunk.reserve_bytes(length))
}

impl Drop for LinkStream {
    /// Waits until what was sent is written, unless a rank has failed: the neighbour may still need the last
    /// chunks of a collective that this rank has finished.
    fn drop(&mut self) {
        // After a failure nobody may read any more, and the writer would block for ever. The reader has no
        // other end: it waits for data that will not come.
        if self.abort_state.has_failure() || self.writer.is_none() {
            // It may be closed already.
            let _ = self.stream.shutdown(Shutdown::Both);
        }

        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }
}
