//! What the mathematics asks of the other ranks of a run. Knows no network, and no failure: whoever
//! ends a step asks whether the ranks were all there.

use std::fmt::Debug;
use std::ops::Range;

use crate::tensor::TensorViewMut;

/// The ranks that compute one global batch together.
///
/// # Guarantees
/// All ranks call the same functions with as many values and in the same order, and all get the same
/// numbers to the last bit.
pub trait Collective: Debug + Send + Sync {
    /// The number of this one, from 0.
    fn rank(&self) -> usize;
    /// How many there are.
    fn world_size(&self) -> usize;
    /// Makes every value its sum over all ranks.
    fn all_reduce_sum_f64(&self, values: &mut [f64]);
    /// Fills in the values of the others: each rank brings an equal part, in the order of the ranks.
    fn all_gather_f32(&self, values: &mut [f32]);

    /// The same for numbers in any memory.
    fn all_gather_tensor(&self, mut values: TensorViewMut<'_>) {
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

/// One rank by itself.
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

/// Takes gradients that no later part of a backward pass touches.
pub trait GradientReducer {
    /// `range` of the flat gradient is done: from now on it may be read and written.
    fn reduce_gradients(&mut self, gradients: &mut TensorViewMut<'_>, range: Range<usize>);
}

/// Leaves them where they are.
impl GradientReducer for () {
    fn reduce_gradients(&mut self, _: &mut TensorViewMut<'_>, _: Range<usize>) {}
}
