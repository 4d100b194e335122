//! AdamW over ranges of flat parameters, and the norms of their gradients.

mod cpu;
mod gpu;

use std::ops::Range;

use crate::tensor::{Memory, TensorView, TensorViewMut};

/// The constants of one step.
#[derive(Clone, Copy, Debug)]
pub struct AdamWConstants {
    /// Decay of the mean gradient.
    pub beta_1: f32,
    /// Decay of the mean squared gradient.
    pub beta_2: f32,
    /// Added to the root of the latter.
    pub epsilon: f32,
    /// What a gradient is multiplied with first.
    pub clip: f32,
    /// The learning rate, corrected for the first moment's start at zero.
    pub rate: f32,
    /// One over the root of the second moment's correction.
    pub correction: f32,
    /// What a weight is multiplied with.
    pub keep: f32,
    /// The same for a weight that decays.
    pub keep_decayed: f32,
}

/// The flat arrays that a step reads and writes.
///
/// # Shapes
/// All of the length of the parameters.
#[derive(Debug)]
pub struct AdamWArrays<'a> {
    /// The weights.
    pub values: TensorViewMut<'a>,
    /// Mean gradients.
    pub exp_avg: TensorViewMut<'a>,
    /// Mean squared gradients.
    pub exp_avg_sq: TensorViewMut<'a>,
    /// Gradients.
    pub gradients: TensorView<'a>,
}

/// A range of the flat arrays that is updated: one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateRange {
    /// Where it lies.
    pub range: Range<usize>,
    /// Whether its weights decay.
    pub decays: bool,
}

/// The ranges that are updated, and on a device the table by which a kernel finds them.
///
/// ```
/// use cnclip_compute::ops::adamw::{AdamWRanges, UpdateRange};
/// use cnclip_compute::tensor::Memory;
///
/// let range = UpdateRange { range: 1..3, decays: true };
/// let mut ranges = AdamWRanges::new(&Memory::Host, vec![range]);
/// let gradients = vec![9.0, 3.0, 4.0];
/// assert_eq!(ranges.sums_of_squares((&gradients).into()), [25.0]);
/// ```
#[derive(Debug)]
pub struct AdamWRanges {
    ranges: Vec<UpdateRange>,
    chunks: Option<gpu::ChunkTable>,
}

impl AdamWRanges {
    /// Ranges of parameters in some memory.
    pub fn new(memory: &Memory, ranges: Vec<UpdateRange>) -> Self {
        Self {
            chunks: gpu::ChunkTable::new(memory, &ranges),
            ranges,
        }
    }

    /// The ranges.
    pub fn ranges(&self) -> &[UpdateRange] {
        &self.ranges
    }

    /// The sum of squares of the gradient of each range. Waits for the device.
    ///
    /// # Guarantees
    /// The same for any number of threads: the order of additions depends on the lengths alone.
    pub fn sums_of_squares(&mut self, gradients: TensorView<'_>) -> Vec<f64> {
        match &mut self.chunks {
            Some(chunks) => chunks.sums_of_squares(gradients.expect_device()),
            None => {
                let gradients = gradients.expect_host();
                let sum =
                    |range: &UpdateRange| cpu::sum_of_squares(&gradients[range.range.clone()]);
                self.ranges.iter().map(sum).collect()
            }
        }
    }

    /// Updates weights and moments of all ranges.
    ///
    /// # Source
    /// PyTorch's `AdamW`: decay is decoupled from the gradient.
    pub fn step(&self, arrays: AdamWArrays<'_>, constants: AdamWConstants) {
        match &self.chunks {
            Some(chunks) => chunks.step(
                &mut arrays.values.expect_device(),
                &mut arrays.exp_avg.expect_device(),
                &mut arrays.exp_avg_sq.expect_device(),
                arrays.gradients.expect_device(),
                constants,
            ),
            None => {
                let values = arrays.values.expect_host();
                let exp_avg = arrays.exp_avg.expect_host();
                let exp_avg_sq = arrays.exp_avg_sq.expect_host();
                let gradients = arrays.gradients.expect_host();
                for UpdateRange { range, decays } in &self.ranges {
                    let slices = cpu::UpdateSlices {
                        values: &mut values[range.clone()],
                        exp_avg: &mut exp_avg[range.clone()],
                        exp_avg_sq: &mut exp_avg_sq[range.clone()],
                        gradients: &gradients[range.clone()],
                    };

                    slices.par_update(constants, *decays);
                }
            }
        }
    }
}

/// Adds a number to every value.
pub fn add_scalar(values: TensorViewMut<'_>, number: f32) {
    match values {
        TensorViewMut::Host(values) => values.iter_mut().for_each(|value| *value += number),
        TensorViewMut::Device(mut values) => gpu::add_scalar(&mut values, number),
    }
}

/// Clamps every value to bounds; NaN stays NaN.
pub fn clamp_values(values: TensorViewMut<'_>, low: f32, high: f32) {
    match values {
        TensorViewMut::Host(values) => values
            .iter_mut()
            // `clamp` leaves NaN as it is, as the kernel does: a broken run must be seen to be
            // broken.
            .for_each(|value| *value = value.clamp(low, high)),
        TensorViewMut::Device(mut values) => gpu::clamp_values(&mut values, low, high),
    }
}
