//! Features made unit vectors.

pub mod gpu;

use rayon::prelude::*;

use crate::math::dot_product;
use crate::tensor::{TensorView, TensorViewMut};

/// Below this a vector is taken as this long, as PyTorch's `normalize` does.
const MIN_NORM: f32 = 1e-12;

/// `y = x / |x|`, row by row.
///
/// # Shapes
/// `x`, `y` [rows, width].
pub fn forward(width: usize, x: TensorView<'_>, y: TensorViewMut<'_>) {
    match y {
        TensorViewMut::Host(y) => forward_host(width, x.expect_host(), y),
        TensorViewMut::Device(mut y) => gpu::forward(width, x.expect_device(), &mut y),
    }
}

fn forward_host(width: usize, x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .for_each(|(y, x)| {
            let scale = 1.0 / dot_product(x, x).sqrt().max(MIN_NORM);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * scale);
        });
}

/// Writes `dx`.
///
/// # Shapes
/// `x`, `dy`, `dx` [rows, width].
pub fn backward(width: usize, x: TensorView<'_>, dy: TensorView<'_>, dx: TensorViewMut<'_>) {
    match dx {
        TensorViewMut::Host(dx) => backward_host(width, x.expect_host(), dy.expect_host(), dx),
        TensorViewMut::Device(mut dx) => {
            gpu::backward(width, x.expect_device(), dy.expect_device(), &mut dx)
        }
    }
}

fn backward_host(width: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let rows = dx
        .par_chunks_mut(width)
        .zip(x.par_chunks(width))
        .zip(dy.par_chunks(width));

    rows.for_each(|((dx, x), dy)| {
        let scale = 1.0 / dot_product(x, x).sqrt().max(MIN_NORM);
        let along = dot_product(x, dy) * scale * scale;
        for (dx, (x, dy)) in dx.iter_mut().zip(x.iter().zip(dy)) {
            *dx = (dy - x * along) * scale;
        }
    });
}
