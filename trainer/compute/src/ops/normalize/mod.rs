//! Features made unit vectors.

pub mod gpu;

use rayon::prelude::*;

use crate::math::dot;
use crate::tensor::{View, ViewMut};

/// Below this a vector is taken as this long, as PyTorch's `normalize` does.
const SHORTEST: f32 = 1e-12;

/// `y = x / |x|`, row by row.
///
/// # Shapes
/// `x`, `y` [rows, width].
pub fn forward(width: usize, x: View<'_>, y: ViewMut<'_>) {
    match y {
        ViewMut::Host(y) => forward_host(width, x.host(), y),
        ViewMut::Device(mut y) => gpu::forward(width, x.device(), &mut y),
    }
}

fn forward_host(width: usize, x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .for_each(|(y, x)| {
            let scale = 1.0 / dot(x, x).sqrt().max(SHORTEST);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * scale);
        });
}

/// Writes `dx`.
///
/// # Shapes
/// `x`, `dy`, `dx` [rows, width].
pub fn backward(width: usize, x: View<'_>, dy: View<'_>, dx: ViewMut<'_>) {
    match dx {
        ViewMut::Host(dx) => backward_host(width, x.host(), dy.host(), dx),
        ViewMut::Device(mut dx) => gpu::backward(width, x.device(), dy.device(), &mut dx),
    }
}

fn backward_host(width: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let rows = dx
        .par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .zip(dy.par_chunks(width));

    rows.for_each(|((dx, x), dy)| {
        let scale = 1.0 / dot(x, x).sqrt().max(SHORTEST);
        let along = dot(x, dy) * scale * scale;
        for (dx, (x, dy)) in dx.iter_mut().zip(x.iter().zip(dy)) {
            *dx = (dy - x * along) * scale;
        }
    });
}
