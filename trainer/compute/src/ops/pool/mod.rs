//! The mean of each 2 × 2 square of a picture whose channels are neighbours: what the tower has for
//! strides.

pub mod gpu;

use rayon::prelude::*;

use crate::gemm::Onto;
use crate::tensor::{View, ViewMut, mixed};

/// Halves the side.
///
/// # Shapes
/// `x` [batch, side, side, channels], `y` [batch, side / 2, side / 2, channels].
#[derive(Clone, Copy, Debug)]
pub struct AveragePool {
    /// Side of a picture that goes in; even.
    pub side: usize,
    /// Channels.
    pub channels: usize,
}

impl AveragePool {
    /// Writes `y`.
    pub fn forward(self, x: View<'_>, y: ViewMut<'_>) {
        match (x, y) {
            (View::Host(x), ViewMut::Host(y)) => self.forward_host(x, y),
            (View::Device(x), ViewMut::Device(y)) => gpu::forward(self, x, y),
            _ => mixed(),
        }
    }

    /// Writes a quarter of `dy` to each pixel of its square in `dx`, or adds it.
    pub fn backward(self, dy: View<'_>, dx: ViewMut<'_>, onto: Onto) {
        match (dy, dx) {
            (View::Host(dy), ViewMut::Host(dx)) => self.backward_host(dy, dx, onto),
            (View::Device(dy), ViewMut::Device(dx)) => gpu::backward(self, dy, dx, onto),
            _ => mixed(),
        }
    }

    fn forward_host(self, x: &[f32], y: &mut [f32]) {
        let line = self.side * self.channels;
        let channels = self.channels;
        y.par_chunks_mut(line / 2)
            .zip(x.par_chunks(2 * line))
            .for_each(|(y, x)| {
                let (upper, lower) = x.split_at(line);
                let squares = upper
                    .chunks_exact(2 * channels)
                    .zip(lower.chunks_exact(2 * channels));

                for (y, (upper, lower)) in y.chunks_exact_mut(channels).zip(squares) {
                    for i in 0..channels {
                        let pairs =
                            (upper[i] + upper[channels + i]) + (lower[i] + lower[channels + i]);
                        y[i] = 0.25 * pairs;
                    }
                }
            });
    }

    fn backward_host(self, dy: &[f32], dx: &mut [f32], onto: Onto) {
        match onto {
            Onto::Replace => self.spread(dy, dx, |_, part| part),
            Onto::Add => self.spread(dy, dx, |old, part| old + part),
        }
    }

    fn spread(self, dy: &[f32], dx: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
        let line = self.side * self.channels;
        let channels = self.channels;
        dx.par_chunks_mut(2 * line)
            .zip(dy.par_chunks(line / 2))
            .for_each(|(dx, dy)| {
                for dx in dx.chunks_exact_mut(line) {
                    for (dx, dy) in dx
                        .chunks_exact_mut(2 * channels)
                        .zip(dy.chunks_exact(channels))
                    {
                        let (left, right) = dx.split_at_mut(channels);
                        for i in 0..channels {
                            let part = 0.25 * dy[i];
                            left[i] = f(left[i], part);
                            right[i] = f(right[i], part);
                        }
                    }
                }
            });
    }
}
