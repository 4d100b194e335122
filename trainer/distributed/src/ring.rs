//! Sums and gathers around a ring of ranks, each of which sends to the next and receives from the one
//! before. Decides the order of additions; never waits without an end.

use std::ops::{AddAssign, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;

use super::RankTopology;
use super::abort_state::{AbortState, WorkerLost};
use super::link::{CHUNK_BYTES, LinkBroken, LinkReceiver, LinkSender};

/// One rank's place in a ring.
///
/// # Guarantees
/// Every number is summed at one rank, in the order of the ring, and copied to the others: all get
/// the same bits, in every run of as many ranks. Once somebody is lost, values stay as they are.
#[derive(Debug)]
pub(super) struct RingCollective {
    topology: RankTopology,
    links: Option<RingLinks>,
    abort_state: Arc<AbortState>,
    wait_time: Duration,
}

/// To the next rank and from the one before.
#[derive(Debug)]
pub(super) struct RingLinks {
    pub(super) next: LinkSender,
    pub(super) previous: LinkReceiver,
}

impl RingCollective {
    /// A place among others, or alone where there are no links.
    pub(super) fn new(seat: RankTopology, links: Option<RingLinks>, fate: Arc<AbortState>) -> Self {
        Self {
            topology: seat,
            links,
            abort_state: fate,
            wait_time: Duration::ZERO,
        }
    }

    /// How long others let this rank wait so far.
    pub(super) fn wait_time(&self) -> Duration {
        self.wait_time
    }

    /// Makes every value its sum over all ranks.
    pub(super) fn all_reduce_sum<T: Pod + AddAssign>(&mut self, values: &mut [T]) {
        let length = values.len();
        let count = self.topology.world_size;
        let rank = self.topology.rank;
        let part = |at: usize| length * (at % count) / count..length * (at % count + 1) / count;
        // Each part travels once around, growing; then once more, whole.
        let grown = self.pass_around(
            values,
            |step| part(rank + count - step),
            |to, from| {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
            },
        );

        let whole = |step| part(rank + 1 + count - step);
        let done = grown
            .and_then(|()| self.pass_around(values, whole, |to, from| to.copy_from_slice(from)));
        self.record_link_failure(done);
    }

    /// Fills in the values that other ranks have; `place` says where those of each rank are.
    pub(super) fn all_gather<T: Pod>(
        &mut self,
        values: &mut [T],
        place: impl Fn(usize) -> Range<usize>,
    ) {
        let count = self.topology.world_size;
        let rank = self.topology.rank;
        let places = |step| place((rank + count - step) % count);
        let done = self.pass_around(values, places, |to, from| to.copy_from_slice(from));
        self.record_link_failure(done);
    }

    /// In each step a rank sends the part it got in the step before, the first time its own.
    fn pass_around<T: Pod>(
        &mut self,
        values: &mut [T],
        part: impl Fn(usize) -> Range<usize>,
        take: impl Fn(&mut [T], &[T]),
    ) -> Result<(), LinkBroken> {
        if self.abort_state.is_lost() {
            return Ok(());
        }

        (1..self.topology.world_size)
            .try_for_each(|step| self.exchange_chunks(values, (part(step - 1), part(step)), &take))
    }

    /// Sends a part and receives another, a piece of each in turn: so nobody waits for a neighbour
    /// that waits for it.
    fn exchange_chunks<T: Pod>(
        &mut self,
        values: &mut [T],
        (mut sent, mut got): (Range<usize>, Range<usize>),
        take: impl Fn(&mut [T], &[T]),
    ) -> Result<(), LinkBroken> {
        let Some(RingLinks { next, previous }) = &self.links else {
            return Ok(());
        };

        let most = CHUNK_BYTES / size_of::<T>();
        let cut = |part: &mut Range<usize>| {
            let piece = part.start..part.end.min(part.start + most);
            part.start = piece.end;
            Some(piece).filter(|piece| !piece.is_empty())
        };

        loop {
            let out = cut(&mut sent);
            let into = cut(&mut got);
            if let Some(out) = &out {
                next.send_values(&values[out.clone()], &self.abort_state)?;
            }

            let Some(into) = into else {
                if out.is_none() {
                    return Ok(());
                }
                continue;
            };

            let start = Instant::now();
            let received = previous.receive_values(into.len(), &self.abort_state, |piece| {
                take(&mut values[into], piece)
            });

            self.wait_time += start.elapsed();
            received?;
        }
    }

    /// A link that broke without a loss that is known of is the neighbour's.
    fn record_link_failure(&self, done: Result<(), LinkBroken>) {
        if let Err(LinkBroken(how)) = done {
            let RankTopology {
                rank,
                world_size: count,
                local_world_size: devices,
            } = self.topology;

            let worker = (rank + count - 1) % count / devices;
            let ranks = worker * devices..(worker + 1) * devices;
            self.abort_state.record_loss(WorkerLost {
                worker,
                ranks,
                step: self.abort_state.current_step(),
                how,
            });
        }
    }
}
