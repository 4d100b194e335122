//! Layer normalisation: each row to mean 0 and variance 1, then scaled and shifted.

use rayon::prelude::*;

use super::math::sum;
use super::matrix::Onto;
use crate::params::{Init, Layout, Weight};

/// What a row was normalised with: its mean, and one over its standard deviation.
pub type Moments = [f32; 2];

/// `y = (x - mean) / sqrt(variance + epsilon) · weight + bias`, row by row.
///
/// # Shapes
/// `x`, `y` [rows, width]; `weight`, `bias` [width]; moments [rows].
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
        Self { scale: Weight::join(&[weight, bias]), width, epsilon }
    }

    /// Writes `y`, and the moments that the backward needs.
    pub fn forward(&self, values: &[f32], x: &[f32], y: &mut [f32], moments: &mut [Moments]) {
        let (width, count) = (self.width, self.width as f32);
        let (weight, bias) = self.scale.of(values).split_at(width);
        let rows = y.par_chunks_mut(width).zip(x.par_chunks(width)).zip(moments);
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
        (values, gradients): (&[f32], &mut [f32]),
        (x, moments): (&[f32], &[Moments]),
        dy: &[f32],
        dx: &mut [f32],
        onto: Onto,
    ) {
        self.backward_weights(gradients, (x, moments), dy);
        let (width, count) = (self.width, self.width as f32);
        let weight = &self.scale.of(values)[..width];
        let rows = dx.par_chunks_mut(width).zip(x.par_chunks(width)).zip(dy.par_chunks(width));
        rows.zip(moments).with_min_len(8).for_each(|(((dx, x), dy), &[mean, scale])| {
            let along = sum(dy, |i, v| v * weight[i]) / count;
            let across = sum(dy, |i, v| v * weight[i] * (x[i] - mean)) * scale / count;
            for i in 0..width {
                let unit = (x[i] - mean) * scale;
                let gradient = scale * (dy[i] * weight[i] - along - unit * across);
                dx[i] = if onto == Onto::Add { dx[i] + gradient } else { gradient };
            }
        });
    }

    fn backward_weights(
        &self,
        gradients: &mut [f32],
        (x, moments): (&[f32], &[Moments]),
        dy: &[f32],
    ) {
        /// Columns that one thread sums: two cache lines.
        const COLUMNS: usize = 32;
        let width = self.width;
        let (weight, bias) = self.scale.of_mut(gradients).split_at_mut(width);
        let columns = weight.par_chunks_mut(COLUMNS).zip(bias.par_chunks_mut(COLUMNS));
        columns.enumerate().for_each(|(chunk, (weight, bias))| {
            let part = chunk * COLUMNS..chunk * COLUMNS + weight.len();
            let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(moments);
            for ((x, dy), [mean, scale]) in rows {
                let (x, dy) = (&x[part.clone()], &dy[part.clone()]);
                for i in 0..weight.len() {
                    weight[i] += dy[i] * (x[i] - mean) * scale;
                    bias[i] += dy[i];
                }
            }
        });
    }
}
