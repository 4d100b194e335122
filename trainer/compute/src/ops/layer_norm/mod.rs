//! Layer normalisation: each row to mean 0 and variance 1, then scaled and shifted.

pub mod gpu;

use rayon::prelude::*;

use crate::gemm::Onto;
use crate::math::sum;
use crate::params::{Init, Layout, Weight};
use crate::tensor::{View, ViewMut};

/// How many numbers say what a row was normalised with: its mean, and one over its standard deviation.
pub const MOMENTS: usize = 2;

/// `y = (x - mean) / sqrt(variance + epsilon) · weight + bias`, row by row.
///
/// # Shapes
/// `x`, `y` [rows, width]; `weight`, `bias` [width]; moments [rows, 2].
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// The weight, then the bias.
    scale: Weight,
    width: usize,
    epsilon: f32,
}

impl LayerNorm {
    /// Declares `<name>.weight` and `<name>.bias`.
    pub fn declare(layout: &mut Layout, name: &str, width: usize, epsilon: f32) -> Self {
        let weight = layout.weight(&format!("{name}.weight"), &[width], Init::Ones);
        let bias = layout.weight(&format!("{name}.bias"), &[width], Init::Zeros);
        Self {
            scale: Weight::join(&[weight, bias]),
            width,
            epsilon,
        }
    }

    /// Writes `y`, and the moments that the backward needs.
    pub fn forward(&self, values: View<'_>, x: View<'_>, y: ViewMut<'_>, moments: ViewMut<'_>) {
        let scale = self.scale.of(values);
        match y {
            ViewMut::Host(y) => self.forward_host(scale.host(), x.host(), y, moments.host()),
            ViewMut::Device(mut y) => {
                let scale = scale.device();
                let mut moments = moments.device();
                gpu::forward(scale, self.epsilon, x.device(), &mut y, &mut moments);
            }
        }
    }

    fn forward_host(&self, scale: &[f32], x: &[f32], y: &mut [f32], moments: &mut [f32]) {
        let width = self.width;
        let count = self.width as f32;
        let (weight, bias) = scale.split_at(width);
        let moments = moments.as_chunks_mut::<MOMENTS>().0;
        let rows = y
            .par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .zip(moments);

        rows.with_min_len(8).for_each(|((y, x), moments)| {
            let mean = sum(x, |_, v| v) / count;
            let variance = sum(x, |_, v| (v - mean) * (v - mean)) / count;
            let scale = 1.0 / (variance + self.epsilon).sqrt();
            *moments = [mean, scale];

            for i in 0..width {
                y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
            }
        });
    }

    /// Adds to the gradients of the weights; writes `dx`, or adds to it.
    pub fn backward(
        &self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        (x, moments): (View<'_>, View<'_>),
        dy: View<'_>,
        dx: ViewMut<'_>,
        onto: Onto,
    ) {
        let scale = (self.scale.of(values), self.scale.of(gradients.reborrow()));
        match dx {
            ViewMut::Host(dx) => {
                let x = x.host();
                let moments = moments.host().as_chunks::<MOMENTS>().0;
                self.backward_weights(scale.1.host(), (x, moments), dy.host());
                self.backward_input(scale.0.host(), (x, moments), dy.host(), dx, onto);
            }
            ViewMut::Device(mut dx) => {
                let weights = (scale.0.device(), &mut scale.1.device());
                let inner = (x.device(), moments.device());
                gpu::backward(weights, inner, dy.device(), &mut dx, onto);
            }
        }
    }

    fn backward_input(
        &self,
        scale: &[f32],
        (x, moments): (&[f32], &[[f32; MOMENTS]]),
        dy: &[f32],
        dx: &mut [f32],
        onto: Onto,
    ) {
        let width = self.width;
        let count = self.width as f32;
        let weight = &scale[..width];
        let rows = dx
            .par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .zip(dy.par_chunks(width));

        rows.zip(moments)
            .with_min_len(8)
            .for_each(|(((dx, x), dy), &[mean, scale])| {
                let along = sum(dy, |i, v| v * weight[i]) / count;
                let across = sum(dy, |i, v| v * weight[i] * (x[i] - mean)) * scale / count;
                for i in 0..width {
                    let unit = (x[i] - mean) * scale;
                    let gradient = scale * (dy[i] * weight[i] - along - unit * across);
                    dx[i] = if onto == Onto::Add {
                        dx[i] + gradient
                    } else {
                        gradient
                    };
                }
            });
    }

    fn backward_weights(
        &self,
        gradients: &mut [f32],
        (x, moments): (&[f32], &[[f32; MOMENTS]]),
        dy: &[f32],
    ) {
        /// Columns that one thread sums: two cache lines.
        const COLUMNS: usize = 32;
        let width = self.width;
        let (weight, bias) = gradients.split_at_mut(width);
        let columns = weight
            .par_chunks_mut(COLUMNS)
            .zip(bias.par_chunks_mut(COLUMNS));

        columns.enumerate().for_each(|(chunk, (weight, bias))| {
            let part = chunk * COLUMNS..chunk * COLUMNS + weight.len();
            let rows = x
                .chunks_exact(width)
                .zip(dy.chunks_exact(width))
                .zip(moments);

            for ((x, dy), [mean, scale]) in rows {
                let x = &x[part.clone()];
                let dy = &dy[part.clone()];
                for i in 0..weight.len() {
                    weight[i] += dy[i] * (x[i] - mean) * scale;
                    bias[i] += dy[i];
                }
            }
        });
    }
}
