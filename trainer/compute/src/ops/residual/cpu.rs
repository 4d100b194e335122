//! The joint of a residual block's two branches on the CPU.

use rayon::prelude::*;

use crate::math::add_in_place;

/// Elements that one thread takes at a time: three slices of 32 KiB stay in a core's cache.
const CHUNK_LEN: usize = 1 << 13;

pub(super) fn relu_backward_split(y: &[f32], dy: &mut [f32], dy_copy: &mut [f32]) {
    let chunks = dy
        .par_chunks_mut(CHUNK_LEN)
        .zip(dy_copy.par_chunks_mut(CHUNK_LEN))
        .zip(y.par_chunks(CHUNK_LEN));

    chunks.for_each(|((dy, dy_copy), y)| {
        for ((dy, dy_copy), y) in dy.iter_mut().zip(dy_copy).zip(y) {
            *dy = if *y > 0.0 { *dy } else { 0.0 };
            *dy_copy = *dy;
        }
    });
}

pub(super) fn add_residual(x: &[f32], y: &mut [f32]) {
    add_in_place(y, x);
}
