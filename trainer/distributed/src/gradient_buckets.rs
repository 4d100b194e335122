//! Sums gradients over all ranks while the backward pass makes more of them. Decides how much travels
//! at once; the ring decides the order of additions.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::ring::RingCollective;
use crate::error::{Error, Result};
use cnclip_compute::collective::GradientReducer;
use cnclip_compute::device::DeviceGroup;
use cnclip_compute::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

/// Numbers that travel at once.
const BUCKET_VALUES: usize = 1 << 20;
/// Buckets under way.
const MAX_BUCKETS: usize = 4;

/// Gradients that are copied out when they are done, summed by a thread, and copied back.
///
/// # Guarantees
/// All ranks that hand in the same ranges get the same sums to the last bit.
#[derive(Debug)]
pub struct GradientBuckets {
    backend: ReduceBackend,
}

/// How gradients reach the others.
#[derive(Debug)]
enum ReduceBackend {
    /// There is nobody to add to.
    SingleRank,
    /// Copied to this machine's memory.
    RingThread(RingReduceThread),
    /// From device to device, where they lie.
    DeviceGroup(Arc<DeviceGroup>),
}

#[derive(Debug)]
struct RingReduceThread {
    submitted: SyncSender<GradientBucket>,
    reduced: Receiver<GradientBucket>,
    /// The one that is filled.
    open: GradientBucket,
    free: Vec<GradientBucket>,
    in_flight: usize,
    wait_time: Duration,
}

#[derive(Debug)]
struct GradientBucket {
    values: Vec<f32>,
    /// Where they belong.
    ranges: Vec<Range<usize>>,
}

impl GradientBucket {
    fn new() -> Self {
        Self {
            values: Vec::with_capacity(BUCKET_VALUES),
            ranges: Vec::with_capacity(64),
        }
    }

    /// Takes as much as fits.
    fn fill_from(&mut self, gradients: TensorView<'_>, range: &mut Range<usize>) {
        let room = BUCKET_VALUES - self.values.len();
        let part = range.start..range.end.min(range.start + room);
        self.values
            .extend_from_slice(&gradients.slice(part.clone()).to_host());
        range.start = part.end;
        self.ranges.push(part);
    }

    fn drain_into(&mut self, gradients: &mut TensorViewMut<'_>) {
        let mut values = self.values.as_slice();
        for range in self.ranges.drain(..) {
            let (own, rest) = values.split_at(range.len());
            gradients
                .reborrow()
                .slice(range)
                .copy_from(TensorView::Host(own));
            values = rest;
        }

        self.values.clear();
    }
}

impl GradientBuckets {
    /// Sums around a ring, or leaves gradients as they are.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn with_ring(ring: Option<RingCollective>) -> Result<Self> {
        let Some(mut ring) = ring else {
            return Ok(Self {
                backend: ReduceBackend::SingleRank,
            });
        };

        let (go, full) = sync_channel::<GradientBucket>(MAX_BUCKETS);
        let (done, come) = sync_channel(MAX_BUCKETS);
        let sum = move || {
            for mut bucket in full {
                ring.all_reduce_sum(&mut bucket.values);
                if done.send(bucket).is_err() {
                    return;
                }
            }
        };

        let spawned = std::thread::Builder::new()
            .name("gradients".into())
            .spawn(sum);

        spawned.map_err(|error| Error::Bug(format!("no thread to sum gradients: {error}")))?;
        let open = GradientBucket::new();
        let waited = Duration::ZERO;
        let free = (1..MAX_BUCKETS).map(|_| GradientBucket::new()).collect();

        Ok(Self {
            backend: ReduceBackend::RingThread(RingReduceThread {
                submitted: go,
                reduced: come,
                open,
                free,
                in_flight: 0,
                wait_time: waited,
            }),
        })
    }

    /// Sums where devices reach one another.
    pub(super) fn with_device_group(group: Arc<DeviceGroup>) -> Self {
        Self {
            backend: ReduceBackend::DeviceGroup(group),
        }
    }

    /// Waits until every gradient that was handed in is its sum.
    pub fn finish_all_reduce(&mut self, gradients: &mut TensorViewMut<'_>) {
        match &mut self.backend {
            ReduceBackend::SingleRank => {}
            ReduceBackend::RingThread(thread) => {
                thread.submit_bucket(gradients);
                while thread.in_flight > 0 {
                    thread.collect_bucket(gradients);
                }
            }
            ReduceBackend::DeviceGroup(group) => group.wait_on_stream(),
        }
    }

    /// How long [`Buckets::finish`] and full buckets made this rank wait so far.
    pub fn wait_time(&self) -> Duration {
        match &self.backend {
            ReduceBackend::RingThread(thread) => thread.wait_time,
            ReduceBackend::SingleRank | ReduceBackend::DeviceGroup(_) => Duration::ZERO,
        }
    }
}

impl GradientReducer for GradientBuckets {
    fn reduce_gradients(&mut self, gradients: &mut TensorViewMut<'_>, mut range: Range<usize>) {
        match (&mut self.backend, gradients) {
            (ReduceBackend::SingleRank, _) => {}
            (ReduceBackend::DeviceGroup(group), TensorViewMut::Device(gradients)) => {
                group.all_reduce_sum(&mut gradients.reborrow().slice(range));
            }
            (ReduceBackend::DeviceGroup(_), TensorViewMut::Host(_)) => panic_mixed_memories(),
            (ReduceBackend::RingThread(thread), gradients) => {
                while !range.is_empty() {
                    thread.open.fill_from(gradients.as_view(), &mut range);
                    if thread.open.values.len() == BUCKET_VALUES {
                        thread.submit_bucket(gradients);
                    }
                }
            }
        }
    }
}

impl RingReduceThread {
    /// Sends the open bucket, and opens another.
    fn submit_bucket(&mut self, gradients: &mut TensorViewMut<'_>) {
        if self.free.is_empty() {
            self.collect_bucket(gradients);
        }

        let next = self.free.pop().unwrap_or_else(GradientBucket::new);
        let full = std::mem::replace(&mut self.open, next);
        if self.submitted.send(full).is_ok() {
            self.in_flight += 1;
        }
    }

    /// Waits for the bucket that was sent first.
    fn collect_bucket(&mut self, gradients: &mut TensorViewMut<'_>) {
        let start = Instant::now();
        match self.reduced.recv() {
            Ok(mut bucket) => {
                bucket.drain_into(gradients);
                self.free.push(bucket);
                self.in_flight -= 1;
            }
            // The thread panicked; its ring is gone, and the others are told.
            Err(_) => self.in_flight = 0,
        }

        self.wait_time += start.elapsed();
    }
}
