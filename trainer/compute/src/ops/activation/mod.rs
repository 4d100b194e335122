//! The two activations: QuickGELU of the image tower, GELU of the text tower.

pub mod gpu;

use rayon::prelude::*;

use crate::math::{normal_cdf_pdf, sigmoid};
use crate::tensor::{TensorView, TensorViewMut};

/// Values that one thread takes at a time: small enough to stay in its cache.
const CHUNK_LEN: usize = 1 << 13;

/// A smooth step from 0 to the identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x · Φ(x)`, with the exact error function and not its tanh form.
    Gelu,
    /// `x · σ(1.702 x)`.
    QuickGelu,
}

/// The slope that makes the logistic function resemble the normal distribution.
const QUICK_GELU_SLOPE: f32 = 1.702;

#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x * sigmoid(QUICK_GELU_SLOPE * x)
}

#[inline(always)]
fn quick_gelu_derivative(x: f32) -> f32 {
    let gate = sigmoid(QUICK_GELU_SLOPE * x);
    gate + QUICK_GELU_SLOPE * x * gate * (1.0 - gate)
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    x * normal_cdf_pdf(x).0
}

#[inline(always)]
fn gelu_derivative(x: f32) -> f32 {
    let (cumulative, density) = normal_cdf_pdf(x);
    cumulative + x * density
}

impl Activation {
    /// `y = f(x)`.
    pub fn forward(self, x: TensorView<'_>, y: TensorViewMut<'_>) {
        match (self, y) {
            (Self::Gelu, TensorViewMut::Host(y)) => {
                zip_chunks_parallel(x.expect_host(), y, |x, _| gelu(x))
            }
            (Self::QuickGelu, TensorViewMut::Host(y)) => {
                zip_chunks_parallel(x.expect_host(), y, |x, _| quick_gelu(x))
            }
            (_, TensorViewMut::Device(mut y)) => gpu::forward(self, x.expect_device(), &mut y),
        }
    }

    /// `dy` becomes `dx`: it is multiplied by the slope at `x`.
    pub fn backward(self, x: TensorView<'_>, dy: TensorViewMut<'_>) {
        match (self, dy) {
            (Self::Gelu, TensorViewMut::Host(dy)) => {
                zip_chunks_parallel(x.expect_host(), dy, |x, dy| dy * gelu_derivative(x))
            }
            (Self::QuickGelu, TensorViewMut::Host(dy)) => {
                zip_chunks_parallel(x.expect_host(), dy, |x, dy| dy * quick_gelu_derivative(x));
            }
            (_, TensorViewMut::Device(mut dy)) => gpu::backward(self, x.expect_device(), &mut dy),
        }
    }
}

fn zip_chunks_parallel(x: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    y.par_chunks_mut(CHUNK_LEN)
        .zip(x.par_chunks(CHUNK_LEN))
        .for_each(|(y, x)| {
            for i in 0..y.len() {
                y[i] = f(x[i], y[i]);
            }
        });
}
