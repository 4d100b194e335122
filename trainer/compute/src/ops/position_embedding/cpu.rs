//! Position embeddings of image tokens on the CPU.

use rayon::prelude::*;

use crate::math::add_in_place;

pub(super) fn forward(
    positions: &[f32],
    class: &[f32],
    visible: &[u32],
    batch: usize,
    y: &mut [f32],
) {
    let width = class.len();
    let visible_per_image = visible.len() / batch;
    let images = y
        .par_chunks_mut((1 + visible_per_image) * width)
        .zip(visible.par_chunks(visible_per_image));

    images.for_each(|(y, visible)| {
        for (y, position) in y.chunks_exact_mut(width).zip(token_positions(visible)) {
            y.copy_from_slice(&positions[position * width..][..width]);
        }

        // Ends with the shorter of both: only the first row, the class token's, gets it.
        add_in_place(y, class);
    });
}

pub(super) fn backward(
    positions: &mut [f32],
    class: &mut [f32],
    visible: &[u32],
    batch: usize,
    dy: &[f32],
) {
    let width = class.len();
    let visible_per_image = visible.len() / batch;
    // One thread: all images add to the same rows, in their order.
    let images = dy
        .chunks_exact((1 + visible_per_image) * width)
        .zip(visible.chunks_exact(visible_per_image));

    for (dy, visible) in images {
        for (dy, position) in dy.chunks_exact(width).zip(token_positions(visible)) {
            add_in_place(&mut positions[position * width..][..width], dy);
        }

        add_in_place(class, &dy[..width]);
    }
}

/// The position of each token of an image: 0 is the class token's.
fn token_positions(visible: &[u32]) -> impl Iterator<Item = usize> {
    std::iter::once(0).chain(visible.iter().map(|&patch| 1 + patch as usize))
}
