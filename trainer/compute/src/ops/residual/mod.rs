//! Where two branches of a residual network meet.

pub mod gpu;

use rayon::prelude::*;

use crate::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

/// Writes the gradient before a rectifier that gave `y`, twice: for each of the two branches that were
/// added. `dy` becomes the first.
///
/// # Shapes
/// All alike.
pub fn relu_backward_split(y: TensorView<'_>, dy: TensorViewMut<'_>, copy: TensorViewMut<'_>) {
    match (y, dy, copy) {
        (TensorView::Host(y), TensorViewMut::Host(dy), TensorViewMut::Host(copy)) => {
            relu_backward_split_host(y, dy, copy)
        }
        (TensorView::Device(y), TensorViewMut::Device(dy), TensorViewMut::Device(copy)) => {
            gpu::relu_backward_split(y, dy, copy);
        }
        _ => panic_mixed_memories(),
    }
}

fn relu_backward_split_host(y: &[f32], dy: &mut [f32], copy: &mut [f32]) {
    const CHUNK: usize = 1 << 13;
    let chunks = dy
        .par_chunks_mut(CHUNK)
        .zip(copy.par_chunks_mut(CHUNK))
        .zip(y.par_chunks(CHUNK));

    chunks.for_each(|((dy, copy), y)| {
        for ((dy, copy), y) in dy.iter_mut().zip(copy).zip(y) {
            *dy = if *y > 0.0 { *dy } else { 0.0 };
            *copy = *dy;
        }
    });
}

/// Adds `x` to `y`.
///
/// # Shapes
/// Both alike.
pub fn add_residual(x: TensorView<'_>, y: TensorViewMut<'_>) {
    match (x, y) {
        (TensorView::Host(x), TensorViewMut::Host(y)) => {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x)
        }
        (TensorView::Device(x), TensorViewMut::Device(y)) => gpu::add_residual(x, y),
        _ => panic_mixed_memories(),
    }
}
