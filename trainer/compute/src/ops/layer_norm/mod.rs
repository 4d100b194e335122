//! Layer normalisation: each row to mean 0 and variance 1, then scaled and shifted.

pub mod gpu;

use rayon::prelude::*;

use crate::gemm::Accumulate;
use crate::math::sum_map;
use crate::params::{ParamInit, ParamLayout, Weight};
use crate::tensor::{TensorView, TensorViewMut};

/// How many numbers say what a row was normalised with: its mean, and one over its standard deviation.
pub const MOMENTS_PER_ROW: usize = 2;

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
    pub fn declare_params(
        layout: &mut ParamLayout,
        name: &str,
        width: usize,
        epsilon: f32,
    ) -> Self {
        let weight = layout.register_weight(&format!("{name}.weight"), &[width], ParamInit::Ones);
        let bias = layout.register_weight(&format!("{name}.bias"), &[width], ParamInit::Zeros);
        Self {
            scale: Weight::join_adjacent(&[weight, bias]),
            width,
            epsilon,
        }
    }

    /// Writes `y`, and the moments that the backward needs.
    pub fn forward(
        &self,
        values: TensorView<'_>,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        moments: TensorViewMut<'_>,
    ) {
        let scale = self.scale.slice_of(values);
        match y {
            TensorViewMut::Host(y) => self.forward_host(
                scale.expect_host(),
                x.expect_host(),
                y,
                moments.expect_host(),
            ),
            TensorViewMut::Device(mut y) => {
                let scale = scale.expect_device();
                let mut moments = moments.expect_device();
                gpu::forward(scale, self.epsilon, x.expect_device(), &mut y, &mut moments);
            }
        }
    }

    fn forward_host(&self, scale: &[f32], x: &[f32], y: &mut [f32], moments: &mut [f32]) {
        let width = self.width;
        let count = self.width as f32;
        let (weight, bias) = scale.split_at(width);
        let moments = moments.as_chunks_mut::<MOMENTS_PER_ROW>().0;
        let rows = y
            .par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .zip(moments);

        rows.with_min_len(8).for_each(|((y, x), moments)| {
            let mean = sum_map(x, |_, v| v) / count;
            let variance = sum_map(x, |_, v| (v - mean) * (v - mean)) / count;
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
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        (x, moments): (TensorView<'_>, TensorView<'_>),
        dy: TensorView<'_>,
        dx: TensorViewMut<'_>,
        onto: Accumulate,
    ) {
        let scale = (
            self.scale.slice_of(values),
            self.scale.slice_of(gradients.reborrow()),
        );
        match dx {
            TensorViewMut::Host(dx) => {
                let x = x.expect_host();
                let moments = moments.expect_host().as_chunks::<MOMENTS_PER_ROW>().0;
                self.backward_weights(scale.1.expect_host(), (x, moments), dy.expect_host());
                self.backward_input(
                    scale.0.expect_host(),
                    (x, moments),
                    dy.expect_host(),
                    dx,
                    onto,
                );
            }
            TensorViewMut::Device(mut dx) => {
                let weights = (scale.0.expect_device(), &mut scale.1.expect_device());
                let inner = (x.expect_device(), moments.expect_device());
                gpu::backward(weights, inner, dy.expect_device(), &mut dx, onto);
            }
        }
    }

    fn backward_input(
        &self,
        scale: &[f32],
        (x, moments): (&[f32], &[[f32; MOMENTS_PER_ROW]]),
        dy: &[f32],
        dx: &mut [f32],
        onto: Accumulate,
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
                let along = sum_map(dy, |i, v| v * weight[i]) / count;
                let across = sum_map(dy, |i, v| v * weight[i] * (x[i] - mean)) * scale / count;
                for i in 0..width {
                    let unit = (x[i] - mean) * scale;
                    let gradient = scale * (dy[i] * weight[i] - along - unit * across);
                    dx[i] = if onto == Accumulate::Yes {
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
        (x, moments): (&[f32], &[[f32; MOMENTS_PER_ROW]]),
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
