//! Sums over the rows of a batch, channel by channel, and over those of all ranks where they share
//! their statistics. Knows nothing of what is summed.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::gpu;
use crate::collective::Ranks;
use crate::device::{Buffer, Format};
use crate::tensor;

/// Parts that rows are summed in; fixed, so that sums do not depend on the number of threads.
const PARTS: usize = 32;

/// Spans that are summed before their sum is added to others: keeps the digits of long sums.
const BLOCK: usize = 64;

/// Whole rows that loops take as one: the processor is slow on short ones.
pub(super) fn span(width: usize) -> usize {
    const ENOUGH: usize = 256;
    width * (ENOUGH / width).max(1)
}

/// Repeats what the first channels hold.
pub(super) fn repeat(array: &mut [f32], width: usize) {
    for start in (width..array.len()).step_by(width) {
        array.copy_within(..width, start);
    }
}

/// Memory that sums over rows borrow in turn, and the ranks whose rows are counted in.
#[derive(Debug, Default)]
pub struct Sums {
    pub(super) memory: Memory,
    /// The same on a device.
    pub(crate) device: Option<Buffer>,
    shared: Vec<f64>,
    ranks: Option<Arc<dyn Ranks>>,
}

/// Memory for sums over rows.
#[derive(Debug, Default)]
pub(super) struct Memory(Vec<f32>);

impl Sums {
    /// From now on statistics are those of the rows of all ranks together.
    pub fn synchronize(&mut self, ranks: Arc<dyn Ranks>) {
        self.ranks = Some(ranks);
    }

    /// Grows to what so many channels need.
    pub(super) fn fit(&mut self, memory: &tensor::Memory, width: usize) {
        match memory.device() {
            None => self
                .memory
                .0
                .resize(self.memory.0.len().max(PARTS * 4 * span(width)), 0.0),
            Some(device) => {
                let length = gpu::room(width);
                if self.device.as_ref().is_none_or(|sums| sums.len() < length) {
                    self.device = Some(Buffer::new(device, length, Format::F32));
                }
            }
        }

        self.shared
            .resize(self.shared.len().max(2 * width + 1), 0.0);
    }

    /// Whether other ranks' rows are counted in.
    pub(crate) fn synchronized(&self) -> bool {
        self.ranks.is_some()
    }

    /// From means and variances of this rank's rows to those of all rows, and their number.
    ///
    /// Variances are added about the common mean, so that a large mean costs them no digits.
    pub(crate) fn join_moments(
        &mut self,
        rows: f64,
        means: &mut [f32],
        variances: &mut [f32],
    ) -> f64 {
        let Some(ranks) = &self.ranks else {
            return rows;
        };

        let width = means.len();
        let shared = &mut self.shared[..width + 1];
        shared[0] = rows;
        shared[1..]
            .iter_mut()
            .zip(&*means)
            .for_each(|(sum, mean)| *sum = rows * f64::from(*mean));

        ranks.sum(shared);
        let total = shared[0];
        let sums = &mut shared[1..];

        for ((sum, mean), variance) in sums.iter_mut().zip(means).zip(&*variances) {
            let own = f64::from(*mean);
            let common = *sum / total;
            *mean = common as f32;
            *sum = rows * (f64::from(*variance) + (own - common).powi(2));
        }

        ranks.sum(sums);
        variances
            .iter_mut()
            .zip(sums)
            .for_each(|(own, sum)| *own = (*sum / total) as f32);

        total
    }

    /// From a rank's own sums over its rows to those over all rows.
    pub(super) fn join(&mut self, width: usize) {
        let Self {
            memory,
            shared,
            ranks,
            ..
        } = self;

        let Some(ranks) = ranks else { return };
        let [first, second] = memory.sums(width).map(|sums| &mut sums[..width]);
        join(&**ranks, shared, [first, second]);
    }

    /// The same for sums that lie one behind the other.
    pub(crate) fn join_pair(&mut self, sums: &mut [f32]) {
        let Some(ranks) = &self.ranks else { return };
        let (first, second) = sums.split_at_mut(sums.len() / 2);
        join(&**ranks, &mut self.shared, [first, second]);
    }
}

fn join(ranks: &dyn Ranks, shared: &mut [f64], [first, second]: [&mut [f32]; 2]) {
    let shared = &mut shared[..2 * first.len()];
    let both = first.iter().chain(second.iter());
    shared
        .iter_mut()
        .zip(both)
        .for_each(|(shared, own)| *shared = f64::from(*own));

    ranks.sum(shared);
    let both = first.iter_mut().chain(second);
    both.zip(&*shared)
        .for_each(|(own, shared)| *own = *shared as f32);
}

impl Memory {
    /// The sums of two numbers for each channel over an array of rows: `add` adds those of a range of
    /// the array to two arrays of one span.
    pub(super) fn over(
        &mut self,
        (length, width): (usize, usize),
        add: impl Fn(Range<usize>, &mut [f32], &mut [f32]) + Sync,
    ) -> [&mut [f32]; 2] {
        let span = span(width);
        let share = length.div_ceil(PARTS).next_multiple_of(span);
        let parts = &mut self.0[..PARTS * 4 * span];
        parts
            .par_chunks_mut(4 * span)
            .enumerate()
            .for_each(|(part, memory)| {
                let (total, block) = memory.split_at_mut(2 * span);
                total.fill(0.0);
                let end = length.min((part + 1) * share);

                for start in (part * share..end).step_by(BLOCK * span) {
                    block.fill(0.0);
                    let (first, second) = block.split_at_mut(span);
                    add(start..end.min(start + BLOCK * span), first, second);
                    total
                        .iter_mut()
                        .zip(&*block)
                        .for_each(|(total, sum)| *total += sum);
                }
            });

        let (total, others) = parts.split_at_mut(4 * span);
        for other in others.chunks_exact(4 * span) {
            total[..2 * span]
                .iter_mut()
                .zip(other)
                .for_each(|(total, sum)| *total += sum);
        }

        let (first, second) = total[..2 * span].split_at_mut(span);
        for sums in [&mut *first, &mut *second] {
            let (sums, others) = sums.split_at_mut(width);
            for other in others.chunks_exact(width) {
                sums.iter_mut()
                    .zip(other)
                    .for_each(|(sum, other)| *sum += other);
            }
        }

        [first, second]
    }

    /// The sums that were taken last.
    pub(super) fn sums(&mut self, width: usize) -> [&mut [f32]; 2] {
        let span = span(width);
        let (first, second) = self.0[..2 * span].split_at_mut(span);
        [first, second]
    }
}
