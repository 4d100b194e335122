//! What the mathematics asks of the other ranks of a run. Knows no network, and no failure: whoever
//! ends a step asks whether the ranks were all there.

use std::fmt::Debug;
use std::ops::Range;

use crate::tensor::ViewMut;

/// The ranks that compute one global batch together.
///
/// # Guarantees
/// All ranks call the same functions with as many values and in the same order, and all get the same
/// numbers to the last bit.
pub trait Ranks: Debug + Send + Sync {
    /// The number of this one, from 0.
    fn rank(&self) -> usize;
    /// How many there are.
    fn count(&self) -> usize;
    /// Makes every value its sum over all ranks.
    fn sum(&self, values: &mut [f64]);
    /// Fills in the values of the others: each rank brings an equal part, in the order of the ranks.
    fn gather(&self, values: &mut [f32]);

    /// The same for numbers in any memory.
    fn gather_array(&self, mut values: ViewMut<'_>) {
        if self.count() > 1 {
            values.edit(|values| self.gather(values));
        }
    }

    /// This rank's part of so many things, which the ranks share equally.
    fn share(&self, things: usize) -> Range<usize> {
        let part = things / self.count();
        self.rank() * part..(self.rank() + 1) * part
    }
}

/// One rank by itself.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }
    fn count(&self) -> usize {
        1
    }
    fn sum(&self, _: &mut [f64]) {}
    fn gather(&self, _: &mut [f32]) {}
}

/// Takes gradients that no later part of a backward pass touches.
pub trait Reducer {
    /// `range` of the flat gradient is done: from now on it may be read and written.
    fn reduce(&mut self, gradients: &mut ViewMut<'_>, range: Range<usize>);
}

/// Leaves them where they are.
impl Reducer for () {
    fn reduce(&mut self, _: &mut ViewMut<'_>, _: Range<usize>) {}
}
