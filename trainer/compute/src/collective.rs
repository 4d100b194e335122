//! Collectives over the ranks of a run, as operations and the loss call them. Calls return no errors: a lost rank
//! is detected at the end of the step.

use std::fmt::Debug;
use std::ops::Range;

use crate::tensor::TensorViewMut;

/// The ranks that compute one global batch together.
///
/// ```
/// use cnclip_compute::collective::{Collective, SingleRank};
///
/// let mut sums = [1.0, 2.0];
/// SingleRank.all_reduce_sum_f64(&mut sums);
/// assert_eq!(sums, [1.0, 2.0]);
/// assert_eq!(SingleRank.rank_range(8), 0..8);
/// ```
///
/// # Guarantees
/// All ranks call the same functions with as many values and in the same order, and all get the same
/// numbers to the last bit.
pub trait Collective: Debug + Send + Sync {
    /// The index of this rank, from 0.
    fn rank(&self) -> usize;
    /// The number of ranks.
    fn world_size(&self) -> usize;
    /// All-reduce by sum.
    fn all_reduce_sum_f64(&self, values: &mut [f64]);
    /// All-gather in place: each rank brings an equal part, in the order of the ranks.
    fn all_gather_f32(&self, values: &mut [f32]);

    /// All-gather of a tensor in either memory.
    fn all_gather_tensor(&self, mut values: TensorViewMut<'_>) {
        // A single rank need not copy a device's tensor to the host and back.
        if self.world_size() > 1 {
            values.update_on_host(|values| self.all_gather_f32(values));
        }
    }

    /// This rank's part of so many things, which the ranks share equally.
    fn rank_range(&self, things: usize) -> Range<usize> {
        // Multiplied before divided: shares of an indivisible count differ by at most one, and none is lost.
        let first = things * self.rank() / self.world_size();
        let end = things * (self.rank() + 1) / self.world_size();
        first..end
    }
}

/// A run of one rank.
#[derive(Clone, Copy, Debug)]
pub struct SingleRank;

impl Collective for SingleRank {
    fn rank(&self) -> usize {
        0
    }
    fn world_size(&self) -> usize {
        1
    }
    fn all_reduce_sum_f64(&self, _: &mut [f64]) {}
    fn all_gather_f32(&self, _: &mut [f32]) {}
}

/// Receives gradients as soon as the backward pass has finished them, to reduce them while it goes on.
pub trait GradientReducer {
    /// `range` of the flat gradients is finished: from now on it may be read and written.
    fn reduce_gradients(&mut self, gradients: &mut TensorViewMut<'_>, range: Range<usize>);
}

/// Reduces nothing.
impl GradientReducer for () {
    fn reduce_gradients(&mut self, _: &mut TensorViewMut<'_>, _: Range<usize>) {}
}
