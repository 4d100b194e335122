//! What an operation asks of the other ranks of a run. Knows no network.

use std::fmt::Debug;

/// The ranks that compute one global batch together.
pub trait Ranks: Debug + Send + Sync {
    /// Makes every value its sum over all ranks.
    ///
    /// # Guarantees
    /// All ranks call it with as many values and in the same order, and all get the same sums.
    fn sum(&self, values: &mut [f64]);
}
