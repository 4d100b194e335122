//! The two activations: QuickGELU of the image tower, GELU of the text tower.

pub mod gpu;

use rayon::prelude::*;

use crate::math::{normal, sigmoid};
use crate::tensor::{View, ViewMut};

/// Values that one thread takes at a time: small enough to stay in its cache.
const CHUNK: usize = 1 << 13;

/// A smooth step from 0 to the identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x · Φ(x)`, with the exact error function and not its tanh form.
    Gelu,
    /// `x · σ(1.702 x)`.
    QuickGelu,
}

/// The slope that makes the logistic function resemble the normal distribution.
const SLOPE: f32 = 1.702;

#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x * sigmoid(SLOPE * x)
}

#[inline(always)]
fn quick_gelu_slope(x: f32) -> f32 {
    let gate = sigmoid(SLOPE * x);
    gate + SLOPE * x * gate * (1.0 - gate)
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    x * normal(x).0
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    let (cumulative, density) = normal(x);
    cumulative + x * density
}

impl Activation {
    /// `y = f(x)`.
    pub fn forward(self, x: View<'_>, y: ViewMut<'_>) {
        match (self, y) {
            (Self::Gelu, ViewMut::Host(y)) => each(x.host(), y, |x, _| gelu(x)),
            (Self::QuickGelu, ViewMut::Host(y)) => each(x.host(), y, |x, _| quick_gelu(x)),
            (_, ViewMut::Device(mut y)) => gpu::forward(self, x.device(), &mut y),
        }
    }

    /// `dy` becomes `dx`: it is multiplied by the slope at `x`.
    pub fn backward(self, x: View<'_>, dy: ViewMut<'_>) {
        match (self, dy) {
            (Self::Gelu, ViewMut::Host(dy)) => each(x.host(), dy, |x, dy| dy * gelu_slope(x)),
            (Self::QuickGelu, ViewMut::Host(dy)) => {
                each(x.host(), dy, |x, dy| dy * quick_gelu_slope(x));
            }
            (_, ViewMut::Device(mut dy)) => gpu::backward(self, x.device(), &mut dy),
        }
    }
}

fn each(x: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    y.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(y, x)| {
            for i in 0..y.len() {
                y[i] = f(x[i], y[i]);
            }
        });
}
