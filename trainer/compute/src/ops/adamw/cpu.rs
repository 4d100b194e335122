//! AdamW on the CPU.

use rayon::prelude::*;

use super::AdamWConstants;
use crate::math::dot_product;

/// Values that one task updates: the four arrays of a chunk fit into a core's L2 cache.
const CHUNK_LEN: usize = 1 << 15;

/// The same range of the flat arrays.
pub(super) struct UpdateSlices<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) exp_avg: &'a mut [f32],
    pub(super) exp_avg_sq: &'a mut [f32],
    pub(super) gradients: &'a [f32],
}

impl UpdateSlices<'_> {
    /// Updates the range, in parallel.
    pub(super) fn par_update(self, constants: AdamWConstants, decays: bool) {
        let keep = if decays {
            constants.keep_decayed
        } else {
            constants.keep
        };

        self.values
            .par_chunks_mut(CHUNK_LEN)
            .zip(self.exp_avg.par_chunks_mut(CHUNK_LEN))
            .zip(self.exp_avg_sq.par_chunks_mut(CHUNK_LEN))
            .zip(self.gradients.par_chunks(CHUNK_LEN))
            .for_each(|(((values, exp_avg), exp_avg_sq), gradients)| {
                let chunk = UpdateSlices {
                    values,
                    exp_avg,
                    exp_avg_sq,
                    gradients,
                };

                chunk.update(constants, keep);
            });
    }

    fn update(self, constants: AdamWConstants, keep: f32) {
        let AdamWConstants {
            beta_1,
            beta_2,
            epsilon,
            clip,
            rate,
            correction,
            ..
        } = constants;

        // Equal lengths in sight of the compiler: no bounds checks, and vector instructions.
        let len = self.values.len();
        let values = self.values;
        let exp_avg = &mut self.exp_avg[..len];
        let exp_avg_sq = &mut self.exp_avg_sq[..len];
        let gradients = &self.gradients[..len];

        for i in 0..len {
            let gradient = clip * gradients[i];
            exp_avg[i] = beta_1 * exp_avg[i] + (1.0 - beta_1) * gradient;
            exp_avg_sq[i] = beta_2 * exp_avg_sq[i] + (1.0 - beta_2) * gradient * gradient;
            let denominator = exp_avg_sq[i].sqrt() * correction + epsilon;
            values[i] = values[i] * keep - rate * exp_avg[i] / denominator;
        }
    }
}

/// Short sums in fp32, which vector instructions add, and long ones in fp64: among 200 million squares an fp32
/// sum would drop small ones.
pub(super) fn sum_of_squares(values: &[f32]) -> f64 {
    // A fixed number of parts, so that the order of additions does not depend on the threads.
    const PARTS: usize = 32;
    const SHORT_LEN: usize = 1 << 10;
    // Short runs in fp32 vector code, their sums in fp64: a norm over hundreds of millions of
    // squares keeps its digits.
    let short_sum = |values: &[f32]| f64::from(dot_product(values, values));

    let mut sums = [0f64; PARTS];
    let part_len = values.len().div_ceil(PARTS).max(SHORT_LEN);
    sums.par_iter_mut()
        .zip(values.par_chunks(part_len))
        .for_each(|(sum, values)| *sum = values.chunks(SHORT_LEN).map(short_sum).sum());

    sums.iter().sum()
}
