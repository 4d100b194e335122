//! Overlaps the all-reduce of gradients with the backward pass that computes them. Decides how much is
//! reduced at once; the ring decides the order of additions.
//!
//! Gradients that are complete are copied into a bucket. A full bucket goes to a thread that reduces it
//! around a ring of its own, while the backward pass goes on; reduced buckets are copied back.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use cnclip_compute::collective::GradientReducer;
use cnclip_compute::device::DeviceGroup;
use cnclip_compute::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

use crate::error::{Error, Result};
use crate::ring::RingCollective;

/// Values of a bucket, 4 MiB: large enough that latency around the ring hardly counts, small enough that
/// the first bucket is on its way early in the backward pass.
const BUCKET_VALUES: usize = 1 << 20;

/// Buckets in all: one being filled, and the others waiting or being reduced. More would only queue up
/// behind the network, and cost memory.
const MAX_BUCKETS: usize = 4;

/// Ranges that a bucket has memory for from the start: a few layers of small weights.
const EXPECTED_RANGES: usize = 64;

/// The all-reduce of gradients that are handed over one range after the other.
///
/// # Guarantees
/// All ranks that hand over the same ranges in the same order get the same sums to the last bit.
///
/// # Examples
/// ```
/// use cnclip_compute::collective::GradientReducer;
/// use cnclip_compute::tensor::TensorViewMut;
/// use cnclip_distributed::run_on_ranks;
///
/// let sums = run_on_ranks(2, |communicator| {
///     let mut buckets = communicator.gradient_buckets()?;
///     let mut gradients = [1.0, 2.0, 3.0];
///     let mut view = TensorViewMut::Host(&mut gradients);
///     // The backward pass completes the last layer first.
///     buckets.reduce_gradients(&mut view, 2..3);
///     buckets.reduce_gradients(&mut view, 0..2);
///     buckets.finish_all_reduce(&mut view);
///     Ok::<_, cnclip_distributed::Error>(gradients)
/// })?;
///
/// assert_eq!(sums.into_iter().collect::<Result<Vec<_>, _>>()?, [[2.0, 4.0, 6.0]; 2]);
/// # Ok::<(), cnclip_distributed::Error>(())
/// ```
#[derive(Debug)]
pub struct GradientBuckets {
    backend: ReduceBackend,
}

/// How gradients are reduced.
#[derive(Debug)]
enum ReduceBackend {
    /// There is nothing to add.
    SingleRank,
    /// Through host memory, around a ring.
    RingThread(RingReduceThread),
    /// From device to device, in place.
    DeviceGroup(Arc<DeviceGroup>),
}

#[derive(Debug)]
struct RingReduceThread {
    submitted: SyncSender<GradientBucket>,
    reduced: Receiver<GradientBucket>,
    /// The one that is being filled.
    open: GradientBucket,
    free: Vec<GradientBucket>,
    in_flight: usize,
    wait_time: Duration,
}

#[derive(Debug)]
struct GradientBucket {
    values: Vec<f32>,
    /// Where they belong in the flat gradient.
    ranges: Vec<Range<usize>>,
}

impl GradientBucket {
    fn new() -> Self {
        Self {
            values: Vec::with_capacity(BUCKET_VALUES),
            ranges: Vec::with_capacity(EXPECTED_RANGES),
        }
    }

    /// Takes as much of a range as there is memory for; the rest is left in `range`.
    fn fill_from(&mut self, gradients: TensorView<'_>, range: &mut Range<usize>) {
        // A range may be larger than a bucket, and is split then: word embeddings alone fill several.
        let free = BUCKET_VALUES - self.values.len();
        let part = range.start..range.end.min(range.start + free);
        self.values
            .extend_from_slice(&gradients.slice(part.clone()).to_host());
        range.start = part.end;
        self.ranges.push(part);
    }

    fn drain_into(&mut self, gradients: &mut TensorViewMut<'_>) {
        let mut values = self.values.as_slice();
        for range in self.ranges.drain(..) {
            let (part, rest) = values.split_at(range.len());
            gradients
                .reborrow()
                .slice(range)
                .copy_from(TensorView::Host(part));
            values = rest;
        }

        self.values.clear();
    }
}

impl GradientBuckets {
    /// Reduces around a ring, or not at all without one.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn with_ring(ring: Option<RingCollective>) -> Result<Self> {
        let backend = match ring {
            Some(ring) => ReduceBackend::RingThread(RingReduceThread::spawn(ring)?),
            None => ReduceBackend::SingleRank,
        };

        Ok(Self { backend })
    }

    /// Reduces on devices.
    pub(super) fn with_device_group(group: Arc<DeviceGroup>) -> Self {
        Self {
            backend: ReduceBackend::DeviceGroup(group),
        }
    }

    /// Waits until every gradient that was handed over is the sum over all ranks.
    pub fn finish_all_reduce(&mut self, gradients: &mut TensorViewMut<'_>) {
        match &mut self.backend {
            ReduceBackend::SingleRank => {}
            ReduceBackend::RingThread(thread) => {
                // The last bucket is rarely full. Every rank submits it all the same, so their buckets match.
                thread.submit_bucket(gradients);
                while thread.in_flight > 0 {
                    thread.collect_bucket(gradients);
                }
            }
            ReduceBackend::DeviceGroup(group) => group.wait_on_stream(),
        }
    }

    /// How long this rank has waited so far for buckets to be reduced. Collectives on devices are not
    /// counted: the host does not wait for them.
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
    fn spawn(mut ring: RingCollective) -> Result<Self> {
        // Channels hold all buckets there are, so that no send ever blocks.
        let (submitted, inbox) = sync_channel::<GradientBucket>(MAX_BUCKETS);
        let (outbox, reduced) = sync_channel(MAX_BUCKETS);
        let reduce = move || {
            for mut bucket in inbox {
                ring.all_reduce_sum(&mut bucket.values);
                if outbox.send(bucket).is_err() {
                    return;
                }
            }
        };

        std::thread::Builder::new()
            .name("gradients".into())
            .spawn(reduce)
            .map_err(|error| {
                Error::Bug(format!(
                    "cannot start a thread to reduce gradients: {error}"
                ))
            })?;

        Ok(Self {
            submitted,
            reduced,
            open: GradientBucket::new(),
            free: (1..MAX_BUCKETS).map(|_| GradientBucket::new()).collect(),
            in_flight: 0,
            wait_time: Duration::ZERO,
        })
    }

    /// Hands the open bucket to the thread, and opens another.
    fn submit_bucket(&mut self, gradients: &mut TensorViewMut<'_>) {
        // Only here are reduced buckets copied back before the end: their ranges were completed before, so
        // the backward pass does not touch them any more.
        if self.free.is_empty() {
            self.collect_bucket(gradients);
        }

        let next = self.free.pop().unwrap_or_else(GradientBucket::new);
        let full = std::mem::replace(&mut self.open, next);
        if self.submitted.send(full).is_ok() {
            self.in_flight += 1;
        }
    }

    /// Waits for the bucket that was submitted first.
    fn collect_bucket(&mut self, gradients: &mut TensorViewMut<'_>) {
        let start = Instant::now();
        match self.reduced.recv() {
            Ok(mut bucket) => {
                bucket.drain_into(gradients);
                self.free.push(bucket);
                self.in_flight -= 1;
            }
            // The thread panicked. Its end of the ring was dropped with it, so the neighbours detect a broken
            // link, and this rank ends with the failure that they report.
            Err(_) => self.in_flight = 0,
        }

        self.wait_time += start.elapsed();
    }
}
