//! Where two branches of a residual network meet.

pub mod gpu;

use rayon::prelude::*;

use crate::tensor::{View, ViewMut, mixed};

/// Writes the gradient before a rectifier that gave `y`, twice: for each of the two branches that were
/// added. `dy` becomes the first.
///
/// # Shapes
/// All alike.
pub fn rectify(y: View<'_>, dy: ViewMut<'_>, copy: ViewMut<'_>) {
    match (y, dy, copy) {
        (View::Host(y), ViewMut::Host(dy), ViewMut::Host(copy)) => rectify_host(y, dy, copy),
        (View::Device(y), ViewMut::Device(dy), ViewMut::Device(copy)) => {
            gpu::rectify(y, dy, copy);
        }
        _ => mixed(),
    }
}

fn rectify_host(y: &[f32], dy: &mut [f32], copy: &mut [f32]) {
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
pub fn add(x: View<'_>, y: ViewMut<'_>) {
    match (x, y) {
        (View::Host(x), ViewMut::Host(y)) => y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
        (View::Device(x), ViewMut::Device(y)) => gpu::add(x, y),
        _ => mixed(),
    }
}
