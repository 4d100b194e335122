//! The exponential moving average on the CPU.

use rayon::prelude::*;

/// Elements that one task averages.
const CHUNK_LEN: usize = 1 << 15;

pub(super) fn update(averages: &mut [f32], values: &[f32], decay: f32) {
    averages
        .par_chunks_mut(CHUNK_LEN)
        .zip(values.par_chunks(CHUNK_LEN))
        .for_each(|(averages, values)| {
            for (average, value) in averages.iter_mut().zip(values) {
                // By the difference, so that the average of a weight that does not move keeps its bits.
                *average += (1.0 - decay) * (value - *average);
            }
        });
}
