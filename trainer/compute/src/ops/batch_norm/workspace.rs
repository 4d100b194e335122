//! Sums over the rows of a batch, channel by channel, and over the rows of all ranks where their statistics
//! are synchronized.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::gpu;
use crate::collective::Collective;
use crate::device::{DType, DeviceBuffer};
use crate::math::add_in_place;
use crate::tensor::Memory;

/// Parts that rows are summed in: a fixed number, so that sums do not depend on the number of threads.
const PARTIAL_SUMS: usize = 32;

/// Spans that are summed before their sum is added to the total: an fp32 sum of many thousand numbers would
/// lose digits of each.
const SPANS_PER_BLOCK: usize = 64;

/// The length of whole rows that loops take as one: loops of few iterations are slow.
pub(super) fn span_len(width: usize) -> usize {
    const ENOUGH: usize = 256;
    width * (ENOUGH / width).max(1)
}

/// Repeats the numbers of the first row to the whole span.
pub(super) fn repeat_channels(array: &mut [f32], width: usize) {
    for start in (width..array.len()).step_by(width) {
        array.copy_within(..width, start);
    }
}

/// Memory for sums over rows that all batch normalizations share, and the ranks that they are synchronized
/// with.
#[derive(Debug, Default)]
pub struct BatchNormWorkspace {
    pub(super) partial_sums: PartialSums,
    /// The same on a device.
    pub(super) device: Option<DeviceBuffer>,
    all_reduce_buffer: Vec<f64>,
    collective: Option<Arc<dyn Collective>>,
}

/// Memory for sums over rows.
#[derive(Debug, Default)]
pub(super) struct PartialSums(Vec<f32>);

impl BatchNormWorkspace {
    /// From now on statistics are those of the rows of all ranks together.
    pub fn sync_across_ranks(&mut self, collective: Arc<dyn Collective>) {
        self.collective = Some(collective);
    }

    /// Grows to what `width` channels need.
    pub(super) fn reserve_for(&mut self, memory: &Memory, width: usize) {
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
                // One buffer for all normalizations, of the size of the largest: they run one after
                // another.
                if self.device.as_ref().is_none_or(|sums| sums.len() < length) {
                    self.device = Some(DeviceBuffer::new(device, length, DType::F32));
                }
            }
        }

        self.all_reduce_buffer
            .resize(self.all_reduce_buffer.len().max(2 * width + 1), 0.0);
    }

    /// Whether statistics are those of the rows of all ranks.
    pub(super) fn is_synchronized(&self) -> bool {
        self.collective.is_some()
    }

    /// From means and variances of this rank's rows to those of all rows, and their number.
    ///
    /// Two all-reduces: variances are summed about the common mean, so that a large mean costs them no
    /// digits. In fp64, because the sums of all ranks are subtracted from one another.
    pub(super) fn all_reduce_moments(
        &mut self,
        rows: f64,
        means: &mut [f32],
        variances: &mut [f32],
    ) -> f64 {
        let Some(collective) = &self.collective else {
            return rows;
        };

        let width = means.len();
        let shared = &mut self.all_reduce_buffer[..width + 1];
        // The count travels with the sums, in the same all-reduce: means are weighted by rows.
        shared[0] = rows;
        shared[1..]
            .iter_mut()
            .zip(&*means)
            .for_each(|(sum, mean)| *sum = rows * f64::from(*mean));

        collective.all_reduce_sum_f64(shared);
        let total = shared[0];
        let sums = &mut shared[1..];

        for ((sum, mean), variance) in sums.iter_mut().zip(means).zip(&*variances) {
            let own = f64::from(*mean);
            let common = *sum / total;
            *mean = common as f32;
            *sum = rows * (f64::from(*variance) + (own - common).powi(2));
        }

        collective.all_reduce_sum_f64(sums);
        variances
            .iter_mut()
            .zip(sums)
            .for_each(|(own, sum)| *own = (*sum / total) as f32);

        total
    }

    /// From a rank's own sums over its rows to those over all rows.
    pub(super) fn all_reduce_sums(&mut self, width: usize) {
        let Some(collective) = &self.collective else {
            return;
        };

        let sums = self.partial_sums.last_sums(width);
        let [first, second] = sums.map(|sums| &mut sums[..width]);
        all_reduce_in_f64(&**collective, &mut self.all_reduce_buffer, first, second);
    }

    /// The same for two sums that lie one after the other.
    pub(super) fn all_reduce_pair(&mut self, sums: &mut [f32]) {
        let Some(collective) = &self.collective else {
            return;
        };

        let (first, second) = sums.split_at_mut(sums.len() / 2);
        all_reduce_in_f64(&**collective, &mut self.all_reduce_buffer, first, second);
    }
}

/// Sums both arrays over all ranks in one all-reduce.
fn all_reduce_in_f64(
    collective: &dyn Collective,
    shared: &mut [f64],
    first: &mut [f32],
    second: &mut [f32],
) {
    let shared = &mut shared[..2 * first.len()];
    let both = first.iter().chain(second.iter());
    shared
        .iter_mut()
        .zip(both)
        .for_each(|(shared, own)| *shared = f64::from(*own));

    collective.all_reduce_sum_f64(shared);
    let both = first.iter_mut().chain(second);
    both.zip(&*shared)
        .for_each(|(own, shared)| *own = *shared as f32);
}

impl PartialSums {
    /// Two sums for each channel over the rows of an array: `add` adds those of a range of the array to
    /// two arrays of one span.
    pub(super) fn sum_over_rows(
        &mut self,
        length: usize,
        width: usize,
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
                    add_in_place(total, block);
                }
            });

        // The parts are added in their order, after all are complete: the same sums every time.
        let (total, others) = parts.split_at_mut(4 * span);
        for other in others.chunks_exact(4 * span) {
            add_in_place(&mut total[..2 * span], other);
        }

        let (first, second) = total[..2 * span].split_at_mut(span);
        for sums in [&mut *first, &mut *second] {
            let (sums, others) = sums.split_at_mut(width);
            for other in others.chunks_exact(width) {
                add_in_place(sums, other);
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
