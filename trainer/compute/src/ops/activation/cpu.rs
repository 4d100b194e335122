//! GELU and QuickGELU on the CPU.

use rayon::prelude::*;

use super::Activation;
use crate::math::{normal_cdf_pdf, sigmoid};

/// Elements that one thread takes at a time: 32 KiB a slice, which stays in a core's cache.
const CHUNK_LEN: usize = 1 << 13;

/// The slope at which the logistic function is closest to the normal distribution.
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

// The match is outside of the loops: a branch inside of one would keep it from becoming vector code.

pub(super) fn forward(activation: Activation, x: &[f32], y: &mut [f32]) {
    match activation {
        Activation::Gelu => zip_chunks_parallel(x, y, |x, _| gelu(x)),
        Activation::QuickGelu => zip_chunks_parallel(x, y, |x, _| quick_gelu(x)),
    }
}

pub(super) fn backward(activation: Activation, x: &[f32], dy: &mut [f32]) {
    match activation {
        Activation::Gelu => zip_chunks_parallel(x, dy, |x, dy| dy * gelu_derivative(x)),
        Activation::QuickGelu => zip_chunks_parallel(x, dy, |x, dy| dy * quick_gelu_derivative(x)),
    }
}

/// `y = f(x, y)` element by element.
fn zip_chunks_parallel(x: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    y.par_chunks_mut(CHUNK_LEN)
        .zip(x.par_chunks(CHUNK_LEN))
        .for_each(|(y, x)| {
            for i in 0..y.len() {
                y[i] = f(x[i], y[i]);
            }
        });
}
