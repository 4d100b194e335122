//! Collectives around a ring of ranks, each of which sends to the next and receives from the previous one.
//! Decides the order of additions; never waits without a timeout.
//!
//! An all-reduce is a reduce-scatter and an all-gather. The values are cut into as many parts as there are
//! ranks. In each of n − 1 steps every rank sends one part and adds a received one to its own; after that
//! each rank holds one part's complete sum, and n − 1 further steps pass these around. Every rank sends
//! 2 (n − 1) / n of the values, however many ranks there are, and no rank is a bottleneck.

use std::ops::{AddAssign, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;

use crate::abort_state::{AbortState, WorkerFailure};
use crate::link::{CHUNK_BYTES, LinkBroken, LinkReceiver, LinkSender, WaitTicks};
use crate::topology::{RankTopology, ranks_of_worker};

/// One rank's place in a ring.
///
/// # Guarantees
/// Each value is summed in one order, around the ring, and its sum is copied to all ranks: all get the
/// same bits, in every run with as many ranks. Once a rank has failed, values stay as they are.
#[derive(Debug)]
pub(super) struct RingCollective {
    topology: RankTopology,
    links: Option<RingLinks>,
    abort_state: Arc<AbortState>,
    ticks: Arc<WaitTicks>,
    wait_time: Duration,
}

/// To the next rank and from the previous one.
#[derive(Debug)]
pub(super) struct RingLinks {
    pub(super) next: LinkSender,
    pub(super) previous: LinkReceiver,
}

impl RingCollective {
    /// A place among others, or alone where there are no links.
    pub(super) fn new(
        topology: RankTopology,
        links: Option<RingLinks>,
        abort_state: Arc<AbortState>,
        ticks: Arc<WaitTicks>,
    ) -> Self {
        Self {
            topology,
            links,
            abort_state,
            ticks,
            wait_time: Duration::ZERO,
        }
    }

    /// How long this rank has waited for others so far.
    pub(super) fn wait_time(&self) -> Duration {
        self.wait_time
    }

    /// Replaces every value by its sum over all ranks.
    pub(super) fn all_reduce_sum<T: Pod + AddAssign>(&mut self, values: &mut [T]) {
        let len = values.len();
        let count = self.topology.world_size;
        let rank = self.topology.rank;
        let part = |index: usize| {
            let index = index % count;
            len * index / count..len * (index + 1) / count
        };

        // Reduce-scatter: a rank starts with its own part, and part r has come around to rank r − 1 when
        // its sum is complete.
        let scattered = self.pass_around(
            values,
            |step| part(rank + count - step),
            |target, received| {
                for (target, received) in target.iter_mut().zip(received) {
                    *target += *received;
                }
            },
        );

        // All-gather: each rank starts with the part that it holds the sum of.
        let gathered = scattered.and_then(|()| {
            self.pass_around(
                values,
                |step| part(rank + 1 + count - step),
                |target, received| target.copy_from_slice(received),
            )
        });

        self.record_link_failure(gathered);
    }

    /// Fills in the values of other ranks; `range_of` says where those of each rank are.
    pub(super) fn all_gather<T: Pod>(
        &mut self,
        values: &mut [T],
        range_of: impl Fn(usize) -> Range<usize>,
    ) {
        let count = self.topology.world_size;
        let rank = self.topology.rank;
        let gathered = self.pass_around(
            values,
            |step| range_of((rank + count - step) % count),
            |target, received| target.copy_from_slice(received),
        );

        self.record_link_failure(gathered);
    }

    /// Replaces the values by those of rank 0. Each rank passes a chunk on while the next one is on its way to it, so
    /// that a large tensor takes as long as it takes to one rank, however many there are.
    pub(super) fn broadcast<T: Pod>(&mut self, values: &mut [T]) {
        let passed_on = self.pass_on_chunks(values);
        self.record_link_failure(passed_on);
    }

    fn pass_on_chunks<T: Pod>(&mut self, values: &mut [T]) -> Result<(), LinkBroken> {
        // As in `pass_around`.
        if self.abort_state.has_failure() {
            return Ok(());
        }

        let Some(RingLinks { next, previous }) = &self.links else {
            return Ok(());
        };

        let is_first = self.topology.rank == 0;
        let is_last = self.topology.rank + 1 == self.topology.world_size;
        for chunk in values.chunks_mut(CHUNK_BYTES / size_of::<T>()) {
            if !is_first {
                let start = Instant::now();
                let len = chunk.len();
                let take = |received: &[T]| chunk.copy_from_slice(received);
                let received = previous.receive_values(len, &self.abort_state, &self.ticks, take);

                self.wait_time += start.elapsed();
                received?;
            }

            if !is_last {
                next.send_values(chunk, &self.abort_state, &self.ticks)?;
            }
        }

        Ok(())
    }

    /// In each step a rank sends the part that it received in the step before, in the first its own, and
    /// merges the next part into its values.
    fn pass_around<T: Pod>(
        &mut self,
        values: &mut [T],
        part: impl Fn(usize) -> Range<usize>,
        merge: impl Fn(&mut [T], &[T]),
    ) -> Result<(), LinkBroken> {
        // Once links are broken, peers may be at different collectives: their data is of no use.
        if self.abort_state.has_failure() {
            return Ok(());
        }

        (1..self.topology.world_size)
            .try_for_each(|step| self.exchange_parts(values, part(step - 1), part(step), &merge))
    }

    /// Sends a part and receives another, a chunk of each in turn. If every rank sent its whole part first,
    /// all would block on links of bounded capacity, and none would receive.
    fn exchange_parts<T: Pod>(
        &mut self,
        values: &mut [T],
        mut outgoing: Range<usize>,
        mut incoming: Range<usize>,
        merge: impl Fn(&mut [T], &[T]),
    ) -> Result<(), LinkBroken> {
        let Some(RingLinks { next, previous }) = &self.links else {
            return Ok(());
        };

        let chunk_len = CHUNK_BYTES / size_of::<T>();
        loop {
            let outgoing_chunk = take_chunk(&mut outgoing, chunk_len);
            let incoming_chunk = take_chunk(&mut incoming, chunk_len);
            if let Some(chunk) = outgoing_chunk.clone() {
                next.send_values(&values[chunk], &self.abort_state, &self.ticks)?;
            }

            let Some(chunk) = incoming_chunk else {
                if outgoing_chunk.is_none() {
                    return Ok(());
                }

                // Parts differ by up to one value, and so may their numbers of chunks.
                continue;
            };

            let start = Instant::now();
            let take = |received: &[T]| merge(&mut values[chunk.clone()], received);
            let received =
                previous.receive_values(chunk.len(), &self.abort_state, &self.ticks, take);

            self.wait_time += start.elapsed();
            received?;
        }
    }

    /// A link that broke without a recorded failure is blamed on the previous rank's worker: it is the one
    /// that nothing comes from. Where the control plane knew better, it recorded its own cause first.
    fn record_link_failure(&self, result: Result<(), LinkBroken>) {
        let Err(LinkBroken(cause)) = result else {
            return;
        };

        let worker = self.topology.worker_of_rank(self.topology.previous_rank());
        self.abort_state.record_failure(WorkerFailure {
            worker,
            ranks: ranks_of_worker(worker, self.topology.local_world_size),
            step: self.abort_state.current_step(),
            cause,
        });
    }
}

/// The next chunk of a part, of which the rest is left.
fn take_chunk(part: &mut Range<usize>, chunk_len: usize) -> Option<Range<usize>> {
    let chunk = part.start..part.end.min(part.start + chunk_len);
    part.start = chunk.end;
    Some(chunk).filter(|chunk| !chunk.is_empty())
}
