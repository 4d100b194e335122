//! Sums gradients over all ranks while the backward pass makes more of them. Decides how much travels
//! at once; the ring decides the order of additions.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::ring::Ring;
use crate::error::{Error, Result};
use cnclip_compute::collective::Reducer;
use cnclip_compute::device::Group;
use cnclip_compute::tensor::{View, ViewMut, mixed};

/// Numbers that travel at once.
const BUCKET: usize = 1 << 20;
/// Buckets under way.
const BUCKETS: usize = 4;

/// Gradients that are copied out when they are done, summed by a thread, and copied back.
///
/// # Guarantees
/// All ranks that hand in the same ranges get the same sums to the last bit.
#[derive(Debug)]
pub struct Buckets {
    way: Way,
}

/// How gradients reach the others.
#[derive(Debug)]
enum Way {
    /// There is nobody to add to.
    Alone,
    /// Copied to this machine's memory.
    Thread(Thread),
    /// From device to device, where they lie.
    Devices(Arc<Group>),
}

#[derive(Debug)]
struct Thread {
    go: SyncSender<Bucket>,
    come: Receiver<Bucket>,
    /// The one that is filled.
    open: Bucket,
    free: Vec<Bucket>,
    under_way: usize,
    waited: Duration,
}

#[derive(Debug)]
struct Bucket {
    values: Vec<f32>,
    /// Where they belong.
    ranges: Vec<Range<usize>>,
}

impl Bucket {
    fn new() -> Self {
        Self {
            values: Vec::with_capacity(BUCKET),
            ranges: Vec::with_capacity(64),
        }
    }

    /// Takes as much as fits.
    fn fill(&mut self, gradients: View<'_>, range: &mut Range<usize>) {
        let room = BUCKET - self.values.len();
        let part = range.start..range.end.min(range.start + room);
        self.values
            .extend_from_slice(&gradients.part(part.clone()).read());
        range.start = part.end;
        self.ranges.push(part);
    }

    fn pour(&mut self, gradients: &mut ViewMut<'_>) {
        let mut values = self.values.as_slice();
        for range in self.ranges.drain(..) {
            let (own, rest) = values.split_at(range.len());
            gradients.reborrow().part(range).copy_from(View::Host(own));
            values = rest;
        }

        self.values.clear();
    }
}

impl Buckets {
    /// Sums around a ring, or leaves gradients as they are.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(ring: Option<Ring>) -> Result<Self> {
        let Some(mut ring) = ring else {
            return Ok(Self { way: Way::Alone });
        };

        let (go, full) = sync_channel::<Bucket>(BUCKETS);
        let (done, come) = sync_channel(BUCKETS);
        let sum = move || {
            for mut bucket in full {
                ring.sum(&mut bucket.values);
                if done.send(bucket).is_err() {
                    return;
                }
            }
        };

        let spawned = std::thread::Builder::new()
            .name("gradients".into())
            .spawn(sum);

        spawned.map_err(|error| Error::Bug(format!("no thread to sum gradients: {error}")))?;
        let open = Bucket::new();
        let waited = Duration::ZERO;
        let free = (1..BUCKETS).map(|_| Bucket::new()).collect();

        Ok(Self {
            way: Way::Thread(Thread {
                go,
                come,
                open,
                free,
                under_way: 0,
                waited,
            }),
        })
    }

    /// Sums where devices reach one another.
    pub(super) fn of(group: Arc<Group>) -> Self {
        Self {
            way: Way::Devices(group),
        }
    }

    /// Waits until every gradient that was handed in is its sum.
    pub fn finish(&mut self, gradients: &mut ViewMut<'_>) {
        match &mut self.way {
            Way::Alone => {}
            Way::Thread(thread) => {
                thread.send(gradients);
                while thread.under_way > 0 {
                    thread.take_back(gradients);
                }
            }
            Way::Devices(group) => group.settle(),
        }
    }

    /// How long [`Buckets::finish`] and full buckets made this rank wait so far.
    pub fn waited(&self) -> Duration {
        match &self.way {
            Way::Thread(thread) => thread.waited,
            Way::Alone | Way::Devices(_) => Duration::ZERO,
        }
    }
}

impl Reducer for Buckets {
    fn reduce(&mut self, gradients: &mut ViewMut<'_>, mut range: Range<usize>) {
        match (&mut self.way, gradients) {
            (Way::Alone, _) => {}
            (Way::Devices(group), ViewMut::Device(gradients)) => {
                group.sum(&mut gradients.reborrow().part(range));
            }
            (Way::Devices(_), ViewMut::Host(_)) => mixed(),
            (Way::Thread(thread), gradients) => {
                while !range.is_empty() {
                    thread.open.fill(gradients.view(), &mut range);
                    if thread.open.values.len() == BUCKET {
                        thread.send(gradients);
                    }
                }
            }
        }
    }
}

impl Thread {
    /// Sends the open bucket, and opens another.
    fn send(&mut self, gradients: &mut ViewMut<'_>) {
        if self.free.is_empty() {
            self.take_back(gradients);
        }

        let next = self.free.pop().unwrap_or_else(Bucket::new);
        let full = std::mem::replace(&mut self.open, next);
        if self.go.send(full).is_ok() {
            self.under_way += 1;
        }
    }

    /// Waits for the bucket that was sent first.
    fn take_back(&mut self, gradients: &mut ViewMut<'_>) {
        let start = Instant::now();
        match self.come.recv() {
            Ok(mut bucket) => {
                bucket.pour(gradients);
                self.free.push(bucket);
                self.under_way -= 1;
            }
            // The thread panicked; its ring is gone, and the others are told.
            Err(_) => self.under_way = 0,
        }

        self.waited += start.elapsed();
    }
}
