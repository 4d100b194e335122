//! Sums over the rows of a batch, channel by channel, and over those of all ranks where they share
//! their statistics. Knows nothing of what is summed.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::gpu;
use crate::collective::Collective;
use crate::device::{DType, DeviceBuffer};
use crate::tensor;

/// Parts that rows are summed in; fixed, so that sums do not depend on the number of threads.
const PARTIAL_SUMS: usize = 32;

/// Spans that are summed before their sum is added to others: keeps the digits of long sums.
const SPANS_PER_BLOCK: usize = 64;

/// Whole rows that loops take as one: the processor is slow on short ones.
pub(super) fn span_len(width: usize) -> usize {
    const ENOUGH: usize = 256;
    width * (ENOUGH / width).max(1)
}

/// Repeats what the first channels hold.
pub(super) fn repeat_channels(array: &mut [f32], width: usize) {
    for start in (width..array.len()).step_by(width) {
        array.copy_within(..width, start);
    }
}

/// Memory that sums over rows borrow in turn, and the ranks whose rows are counted in.
#[derive(Debug, Default)]
pub struct BatchNormWorkspace {
    pub(super) partial_sums: PartialSums,
    /// The same on a device.
    pub(crate) device: Option<DeviceBuffer>,
    all_reduce_buffer: Vec<f64>,
    collective: Option<Arc<dyn Collective>>,
}

/// Memory for sums over rows.
#[derive(Debug, Default)]
pub(super) struct PartialSums(Vec<f32>);

impl BatchNormWorkspace {
    /// From now on statistics are those of the rows of all ranks together.
    pub fn sync_across_ranks(&mut self, ranks: Arc<dyn Collective>) {
        self.collective = Some(ranks);
    }

    /// Grows to what so many channels need.
    pub(super) fn reserve_for(&mut self, memory: &tensor::Memory, width: usize) {
        match memory.device() {
            None => self.partial_sums.0.resize(
                self.partial_sums
                    .0
                    .len()
                    .max(PARTIAL_SUMS * 4 * span_len(width)),
                0.0,
            ),
            Some(device) => {
                let length = gpu::sums_buffer_len(width);
                if self.device.as_ref().is_none_or(|sums| sums.len() < length) {
                    self.device = Some(DeviceBuffer::new(device, length, DType::F32));
                }
            }
        }

        self.all_reduce_buffer
            .resize(self.all_reduce_buffer.len().max(2 * width + 1), 0.0);
    }

    /// Whether other ranks' rows are counted in.
    pub(crate) fn is_synchronized(&self) -> bool {
        self.collective.is_some()
    }

    /// From means and variances of this rank's rows to those of all rows, and their number.
    ///
    /// Variances are added about the common mean, so that a large mean costs them no digits.
    pub(crate) fn all_reduce_moments(
        &mut self,
        rows: f64,
        means: &mut [f32],
        variances: &mut [f32],
    ) -> f64 {
        let Some(ranks) = &self.collective else {
            return rows;
        };

        let width = means.len();
        let shared = &mut self.all_reduce_buffer[..width + 1];
        shared[0] = rows;
        shared[1..]
            .iter_mut()
            .zip(&*means)
            .for_each(|(sum, mean)| *sum = rows * f64::from(*mean));

        ranks.all_reduce_sum_f64(shared);
        let total = shared[0];
        let sums = &mut shared[1..];

        for ((sum, mean), variance) in sums.iter_mut().zip(means).zip(&*variances) {
            let own = f64::from(*mean);
            let common = *sum / total;
            *mean = common as f32;
            *sum = rows * (f64::from(*variance) + (own - common).powi(2));
        }

        ranks.all_reduce_sum_f64(sums);
        variances
            .iter_mut()
            .zip(sums)
            .for_each(|(own, sum)| *own = (*sum / total) as f32);

        total
    }

    /// From a rank's own sums over its rows to those over all rows.
    pub(super) fn all_reduce_sums(&mut self, width: usize) {
        let Self {
            partial_sums: memory,
            all_reduce_buffer: shared,
            collective: ranks,
            ..
        } = self;

        let Some(ranks) = ranks else { return };
        let [first, second] = memory.last_sums(width).map(|sums| &mut sums[..width]);
        all_reduce_in_f64(&**ranks, shared, [first, second]);
    }

    /// The same for sums that lie one behind the other.
    pub(crate) fn all_reduce_pair(&mut self, sums: &mut [f32]) {
        let Some(ranks) = &self.collective else {
            return;
        };
        let (first, second) = sums.split_at_mut(sums.len() / 2);
        all_reduce_in_f64(&**ranks, &mut self.all_reduce_buffer, [first, second]);
    }
}

fn all_reduce_in_f64(ranks: &dyn Collective, shared: &mut [f64], [first, second]: [&mut [f32]; 2]) {
    let shared = &mut shared[..2 * first.len()];
    let both = first.iter().chain(second.iter());
    shared
        .iter_mut()
        .zip(both)
        .for_each(|(shared, own)| *shared = f64::from(*own));

    ranks.all_reduce_sum_f64(shared);
    let both = first.iter_mut().chain(second);
    both.zip(&*shared)
        .for_each(|(own, shared)| *own = *shared as f32);
}

impl PartialSums {
    /// The sums of two numbers for each channel over an array of rows: `add` adds those of a range of
    /// the array to two arrays of one span.
    pub(super) fn sum_over_rows(
        &mut self,
        (length, width): (usize, usize),
        add: impl Fn(Range<usize>, &mut [f32], &mut [f32]) + Sync,
    ) -> [&mut [f32]; 2] {
        let span = span_len(width);
        let share = length.div_ceil(PARTIAL_SUMS).next_multiple_of(span);
        let parts = &mut self.0[..PARTIAL_SUMS * 4 * span];
        parts
            .par_chunks_mut(4 * span)
            .enumerate()
            .for_each(|(part, memory)| {
                let (total, block) = memory.split_at_mut(2 * span);
                total.fill(0.0);
                let end = length.min((part + 1) * share);

                for start in (part * share..end).step_by(SPANS_PER_BLOCK * span) {
                    block.fill(0.0);
                    let (first, second) = block.split_at_mut(span);
                    add(
                        start..end.min(start + SPANS_PER_BLOCK * span),
                        first,
                        second,
                    );
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
    pub(super) fn last_sums(&mut self, width: usize) -> [&mut [f32]; 2] {
        let span = span_len(width);
        let (first, second) = self.0[..2 * span].split_at_mut(span);
        [first, second]
    }
}
