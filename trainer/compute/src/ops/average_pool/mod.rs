//! The mean of each 2 × 2 square of a picture whose channels are neighbours: what the tower has for
//! strides.

pub mod gpu;

use rayon::prelude::*;

use crate::gemm::Accumulate;
use crate::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

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
    pub fn forward(self, x: TensorView<'_>, y: TensorViewMut<'_>) {
        match (x, y) {
            (TensorView::Host(x), TensorViewMut::Host(y)) => self.forward_host(x, y),
            (TensorView::Device(x), TensorViewMut::Device(y)) => gpu::forward(self, x, y),
            _ => panic_mixed_memories(),
        }
    }

    /// Writes a quarter of `dy` to each pixel of its square in `dx`, or adds it.
    pub fn backward(self, dy: TensorView<'_>, dx: TensorViewMut<'_>, onto: Accumulate) {
        match (dy, dx) {
            (TensorView::Host(dy), TensorViewMut::Host(dx)) => self.backward_host(dy, dx, onto),
            (TensorView::Device(dy), TensorViewMut::Device(dx)) => {
                gpu::backward(self, dy, dx, onto)
            }
            _ => panic_mixed_memories(),
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

    fn backward_host(self, dy: &[f32], dx: &mut [f32], onto: Accumulate) {
        match onto {
            Accumulate::No => self.scatter_gradient(dy, dx, |_, part| part),
            Accumulate::Yes => self.scatter_gradient(dy, dx, |old, part| old + part),
        }
    }

    fn scatter_gradient(self, dy: &[f32], dx: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
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
