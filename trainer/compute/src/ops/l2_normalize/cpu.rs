//! L2 normalization on the CPU.

use rayon::prelude::*;

use crate::math::dot_product;

/// The smallest norm that is divided by, as in PyTorch's `normalize`.
const MIN_NORM: f32 = 1e-12;

pub(super) fn forward(width: usize, x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .for_each(|(y, x)| {
            let inverse_norm = inverse_norm(x);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * inverse_norm);
        });
}

pub(super) fn backward(width: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let rows = dx
        .par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .zip(dy.par_chunks(width));

    rows.for_each(|((dx, x), dy)| {
        // The part of `dy` along `x` changes only the norm, which y does not have: it is taken out.
        // The norm is computed again rather than kept: a dot product costs less than its memory.
        let inverse_norm = inverse_norm(x);
        let along = dot_product(x, dy) * inverse_norm * inverse_norm;
        for (dx, (x, dy)) in dx.iter_mut().zip(x.iter().zip(dy)) {
            *dx = (dy - x * along) * inverse_norm;
        }
    });
}

#[inline(always)]
fn inverse_norm(x: &[f32]) -> f32 {
    1.0 / dot_product(x, x).sqrt().max(MIN_NORM)
}
