//! Sums and gathers around a ring of ranks, each of which sends to the next and receives from the one
//! before. Decides the order of additions; never waits without an end.

use std::ops::{AddAssign, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Pod;

use super::Seat;
use super::fate::{Fate, Loss};
use super::link::{Broken, Inbox, Outbox, PIECE_BYTES};

/// One rank's place in a ring.
///
/// # Guarantees
/// Every number is summed at one rank, in the order of the ring, and copied to the others: all get
/// the same bits, in every run of as many ranks. Once somebody is lost, values stay as they are.
#[derive(Debug)]
pub(super) struct Ring {
    seat: Seat,
    links: Option<Links>,
    fate: Arc<Fate>,
    waited: Duration,
}

/// To the next rank and from the one before.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) next: Outbox,
    pub(super) previous: Inbox,
}

impl Ring {
    /// A place among others, or alone where there are no links.
    pub(super) fn new(seat: Seat, links: Option<Links>, fate: Arc<Fate>) -> Self {
        Self {
            seat,
            links,
            fate,
            waited: Duration::ZERO,
        }
    }

    /// How long others let this rank wait so far.
    pub(super) fn waited(&self) -> Duration {
        self.waited
    }

    /// Makes every value its sum over all ranks.
    pub(super) fn sum<T: Pod + AddAssign>(&mut self, values: &mut [T]) {
        let length = values.len();
        let count = self.seat.count;
        let rank = self.seat.rank;
        let part = |at: usize| length * (at % count) / count..length * (at % count + 1) / count;
        // Each part travels once around, growing; then once more, whole.
        let grown = self.pass(
            values,
            |step| part(rank + count - step),
            |to, from| {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
            },
        );

        let whole = |step| part(rank + 1 + count - step);
        let done =
            grown.and_then(|()| self.pass(values, whole, |to, from| to.copy_from_slice(from)));
        self.judge(done);
    }

    /// Fills in the values that other ranks have; `place` says where those of each rank are.
    pub(super) fn gather<T: Pod>(
        &mut self,
        values: &mut [T],
        place: impl Fn(usize) -> Range<usize>,
    ) {
        let count = self.seat.count;
        let rank = self.seat.rank;
        let places = |step| place((rank + count - step) % count);
        let done = self.pass(values, places, |to, from| to.copy_from_slice(from));
        self.judge(done);
    }

    /// In each step a rank sends the part it got in the step before, the first time its own.
    fn pass<T: Pod>(
        &mut self,
        values: &mut [T],
        part: impl Fn(usize) -> Range<usize>,
        take: impl Fn(&mut [T], &[T]),
    ) -> Result<(), Broken> {
        if self.fate.lost() {
            return Ok(());
        }

        (1..self.seat.count)
            .try_for_each(|step| self.exchange(values, (part(step - 1), part(step)), &take))
    }

    /// Sends a part and receives another, a piece of each in turn: so nobody waits for a neighbour
    /// that waits for it.
    fn exchange<T: Pod>(
        &mut self,
        values: &mut [T],
        (mut sent, mut got): (Range<usize>, Range<usize>),
        take: impl Fn(&mut [T], &[T]),
    ) -> Result<(), Broken> {
        let Some(Links { next, previous }) = &self.links else {
            return Ok(());
        };

        let most = PIECE_BYTES / size_of::<T>();
        let cut = |part: &mut Range<usize>| {
            let piece = part.start..part.end.min(part.start + most);
            part.start = piece.end;
            Some(piece).filter(|piece| !piece.is_empty())
        };

        loop {
            let out = cut(&mut sent);
            let into = cut(&mut got);
            if let Some(out) = &out {
                next.send(&values[out.clone()], &self.fate)?;
            }

            let Some(into) = into else {
                if out.is_none() {
                    return Ok(());
                }
                continue;
            };

            let start = Instant::now();
            let received = previous.receive(into.len(), &self.fate, |piece| {
                take(&mut values[into], piece)
            });

            self.waited += start.elapsed();
            received?;
        }
    }

    /// A link that broke without a loss that is known of is the neighbour's.
    fn judge(&self, done: Result<(), Broken>) {
        if let Err(Broken(how)) = done {
            let Seat {
                rank,
                count,
                devices,
            } = self.seat;

            let worker = (rank + count - 1) % count / devices;
            let ranks = worker * devices..(worker + 1) * devices;
            self.fate.lose(Loss {
                worker,
                ranks,
                step: self.fate.step(),
                how,
            });
        }
    }
}
