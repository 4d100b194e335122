//! The tokens of a picture: the mean of its places in front of the places themselves, each with its
//! learned position added.

pub mod gpu;

use rayon::prelude::*;

use crate::ops::linear::add_column_sums;
use crate::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

/// Writes the tokens of each picture, and the first of each a second time.
///
/// # Shapes
/// `positions` [1 + places, width], `x` [batch, places, width], `tokens` [batch, 1 + places, width],
/// `means` [batch, width].
pub fn forward(
    width: usize,
    positions: TensorView<'_>,
    x: TensorView<'_>,
    (tokens, means): (TensorViewMut<'_>, TensorViewMut<'_>),
) {
    match (positions, x, tokens, means) {
        (
            TensorView::Host(p),
            TensorView::Host(x),
            TensorViewMut::Host(tokens),
            TensorViewMut::Host(means),
        ) => {
            prepend_mean_token(p, x, tokens, means, width);
        }
        (
            TensorView::Device(p),
            TensorView::Device(x),
            TensorViewMut::Device(tokens),
            TensorViewMut::Device(means),
        ) => {
            gpu::forward(width, p, x, (tokens, means));
        }
        _ => panic_mixed_memories(),
    }
}

/// Adds to the gradient of the positions, and writes `dx`; adds that of the means to that of the first
/// tokens.
///
/// # Shapes
/// As in [`forward`].
pub fn backward(
    width: usize,
    positions: TensorViewMut<'_>,
    (mut dtokens, dmeans): (TensorViewMut<'_>, TensorView<'_>),
    dx: TensorViewMut<'_>,
) {
    match (dtokens.reborrow(), dmeans, dx) {
        (TensorViewMut::Host(dtokens), TensorView::Host(dmeans), TensorViewMut::Host(dx)) => {
            scatter_gradients(positions.len(), dtokens, dmeans, dx);
        }
        (TensorViewMut::Device(dtokens), TensorView::Device(dmeans), TensorViewMut::Device(dx)) => {
            gpu::backward(width, dtokens, dmeans, dx);
        }
        _ => panic_mixed_memories(),
    }

    add_column_sums(dtokens.as_view(), positions);
}

fn prepend_mean_token(
    positions: &[f32],
    x: &[f32],
    tokens: &mut [f32],
    means: &mut [f32],
    width: usize,
) {
    let all = positions.len();
    let places = positions.len() - width;
    let pictures = tokens.par_chunks_mut(all).zip(means.par_chunks_mut(width));
    pictures
        .zip(x.par_chunks(places))
        .for_each(|((tokens, mean), x)| {
            mean.fill(0.0);
            for place in x.chunks_exact(width) {
                mean.iter_mut()
                    .zip(place)
                    .for_each(|(mean, value)| *mean += value);
            }

            let share = width as f32 / places as f32;
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

fn scatter_gradients(all: usize, dtokens: &mut [f32], dmeans: &[f32], dx: &mut [f32]) {
    let width = all - dx.len() / (dtokens.len() / all);
    let share = width as f32 / (all - width) as f32;
    let pictures = dtokens.par_chunks_mut(all).zip(dmeans.par_chunks(width));
    pictures
        .zip(dx.par_chunks_mut(all - width))
        .for_each(|((dtokens, dmean), dx)| {
            let (first, places) = dtokens.split_at_mut(width);
            first
                .iter_mut()
                .zip(dmean)
                .for_each(|(first, mean)| *first += mean);

            for (dx, place) in dx.chunks_exact_mut(width).zip(places.chunks_exact(width)) {
                for i in 0..width {
                    dx[i] = place[i] + first[i] * share;
                }
            }
        });
}
