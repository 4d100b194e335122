//! Image tokens with their mean in front on the CPU: a task for each image.

use rayon::prelude::*;

use crate::math::add_in_place;

pub(super) fn forward(
    width: usize,
    positions: &[f32],
    x: &[f32],
    tokens: &mut [f32],
    means: &mut [f32],
) {
    let image_tokens = positions.len();
    let image_pixels = image_tokens - width;
    let images = tokens
        .par_chunks_mut(image_tokens)
        .zip(means.par_chunks_mut(width));

    images
        .zip(x.par_chunks(image_pixels))
        .for_each(|((tokens, mean), x)| {
            mean.fill(0.0);
            for pixel in x.chunks_exact(width) {
                add_in_place(mean, pixel);
            }

            let share = width as f32 / image_pixels as f32;
            mean.iter_mut()
                .zip(positions)
                .for_each(|(mean, p)| *mean = *mean * share + p);

            tokens[..width].copy_from_slice(mean);
            let sums = x.iter().zip(&positions[width..]);
            tokens[width..]
                .iter_mut()
                .zip(sums)
                .for_each(|(token, (x, p))| *token = x + p);
        });
}

pub(super) fn backward(width: usize, dtokens: &mut [f32], dmeans: &[f32], dx: &mut [f32]) {
    let batch = dmeans.len() / width;
    let image_pixels = dx.len() / batch;
    let share = width as f32 / image_pixels as f32;
    let images = dtokens
        .par_chunks_mut(width + image_pixels)
        .zip(dmeans.par_chunks(width));

    images
        .zip(dx.par_chunks_mut(image_pixels))
        .for_each(|((dtokens, dmean), dx)| {
            let (first, others) = dtokens.split_at_mut(width);
            add_in_place(first, dmean);

            for (dx, token) in dx.chunks_exact_mut(width).zip(others.chunks_exact(width)) {
                for i in 0..width {
                    dx[i] = token[i] + first[i] * share;
                }
            }
        });
}
