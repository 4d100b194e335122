//! Reads objects in parts, none of which may stall.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore};

use super::{PART_BYTES, PARTS_IN_FLIGHT, Request};
use crate::error::StoreError;
use crate::memory_limit;

/// A body that arrives more slowly than this, over such a window, is taken for a connection that hangs: a part would
/// take longer than any training step can wait. A new connection is often a fast one.
const MIN_BYTES_PER_SECOND: u64 = 16 << 10;
const SPEED_WINDOW: Duration = Duration::from_secs(30);

/// All bytes of an object. A large one arrives in parts, several at a time.
pub(super) async fn whole_object(request: &Request) -> Result<Bytes, StoreError> {
    // One request for small objects: the answer has the size and the bytes. Of a large one the body is dropped
    // unread, and parts are requested instead.
    let first = request
        .run(|objects, path| async move {
            let answer = objects.get_opts(&path, GetOptions::default()).await?;
            match answer.meta.size {
                size if size <= PART_BYTES => read_body(answer).await.map(FirstAnswer::Whole),
                size => Ok(FirstAnswer::Large(size)),
            }
        })
        .await?;

    match first {
        FirstAnswer::Whole(bytes) => Ok(bytes),
        FirstAnswer::Large(size) => byte_range(request, 0..size).await,
    }
}

enum FirstAnswer {
    Whole(Bytes),
    Large(u64),
}

/// The bytes of an object from one place to another. Each part is repeated for itself, so that an outage costs no part
/// that is there already.
pub(super) async fn byte_range(
    request: &Request,
    Range { start, end }: Range<u64>,
) -> Result<Bytes, StoreError> {
    let starts = (start..end).step_by(PART_BYTES as usize);
    let ranges = starts.map(|start| start..end.min(start + PART_BYTES));
    let mut parts = stream::iter(ranges)
        .map(|range| request.run(move |objects, path| read_part(objects, path, range.clone())))
        .buffered(PARTS_IN_FLIGHT);

    let mut whole = reserve_memory(request, end - start)?;
    while let Some(part) = parts.try_next().await? {
        whole.extend_from_slice(&part);
    }

    Ok(whole.into())
}

/// Memory for so many bytes, which the store declares and may not have.
///
/// # Errors
/// If this process cannot hold them.
fn reserve_memory(request: &Request, bytes: u64) -> Result<Vec<u8>, StoreError> {
    let too_large = || StoreError::too_large(&request.uri, bytes);
    let is_small = bytes <= PART_BYTES;
    if !is_small && memory_limit::available_memory().is_some_and(|available| bytes > available) {
        return Err(too_large());
    }

    let mut memory = Vec::new();
    let bytes = usize::try_from(bytes).map_err(|_| too_large())?;
    memory.try_reserve_exact(bytes).map_err(|_| too_large())?;
    Ok(memory)
}

async fn read_part(
    objects: Arc<dyn ObjectStore>,
    path: Path,
    range: Range<u64>,
) -> object_store::Result<Bytes> {
    let options = GetOptions {
        range: Some(GetRange::Bounded(range)),
        ..GetOptions::default()
    };

    read_body(objects.get_opts(&path, options).await?).await
}

/// # Errors
/// If the body ends early, or arrives too slowly.
async fn read_body(answer: GetResult) -> object_store::Result<Bytes> {
    // A local file is read by one call: as a stream it would be read in pieces of 8 KiB, each by another thread.
    if let GetResultPayload::File(..) = answer.payload {
        return answer.bytes().await;
    }

    // No more than a part: what is declared is not there yet.
    let expected = (answer.range.end - answer.range.start).min(PART_BYTES);
    let mut body = answer.into_stream();
    let mut bytes = BytesMut::with_capacity(expected as usize);
    let mut speed = SpeedCheck::new();

    while let Some(piece) = next_piece(&mut body, &mut speed).await? {
        bytes.extend_from_slice(&piece);
    }

    Ok(bytes.freeze())
}

async fn next_piece(
    body: &mut BoxStream<'static, object_store::Result<Bytes>>,
    speed: &mut SpeedCheck,
) -> object_store::Result<Option<Bytes>> {
    let piece = body.try_next().await?;
    if let Some(piece) = &piece {
        speed.add(piece.len() as u64).map_err(stalled)?;
    }

    Ok(piece)
}

/// How fast a body arrives.
struct SpeedCheck {
    window_began: Instant,
    window_bytes: u64,
}

impl SpeedCheck {
    fn new() -> Self {
        Self {
            window_began: Instant::now(),
            window_bytes: 0,
        }
    }

    /// # Errors
    /// The bytes of a window in which too few arrived.
    fn add(&mut self, bytes: u64) -> Result<(), u64> {
        self.window_bytes += bytes;
        if self.window_began.elapsed() < SPEED_WINDOW {
            return Ok(());
        }

        let found = self.window_bytes;
        *self = Self::new();
        match found < MIN_BYTES_PER_SECOND * SPEED_WINDOW.as_secs() {
            true => Err(found),
            false => Ok(()),
        }
    }
}

fn stalled(bytes: u64) -> object_store::Error {
    let seconds = SPEED_WINDOW.as_secs();
    let cause = std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        format!("only {bytes} bytes arrived in {seconds} s"),
    );

    object_store::Error::Generic {
        store: "HTTP",
        source: cause.into(),
    }
}
