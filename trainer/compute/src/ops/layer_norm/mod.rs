//! Layer normalization: each row to mean 0 and variance 1, then scaled and shifted.

mod cpu;
mod gpu;

use crate::gemm::Accumulate;
use crate::params::{ParamInit, ParamLayout, Weight};
use crate::tensor::{TensorView, TensorViewMut};

/// Numbers that the forward keeps of each row: its mean, and one over its standard deviation.
pub const MOMENTS_PER_ROW: usize = 2;

/// `y = (x - mean) / sqrt(variance + epsilon) · weight + bias`, row by row.
///
/// # Shapes
/// `x`, `y` `[rows, width]`; `weight`, `bias` `[width]`; `moments` `[rows, 2]`, always fp32.
///
/// ```
/// use cnclip_compute::ops::layer_norm::{LayerNorm, MOMENTS_PER_ROW};
/// use cnclip_compute::params::ParamLayout;
///
/// let mut layout = ParamLayout::default();
/// let norm = LayerNorm::declare_params(&mut layout, "ln", 2, 1e-5);
/// let mut params = layout.allocate_params();
/// params.init_values(0); // weight 1, bias 0
///
/// let x = vec![1.0, 3.0];
/// let mut y = vec![0.0; 2];
/// let mut moments = vec![0.0; MOMENTS_PER_ROW];
/// norm.forward(params.values.view(), (&x).into(), (&mut y).into(), (&mut moments).into());
/// assert!((y[0] + 1.0).abs() < 1e-4 && (y[1] - 1.0).abs() < 1e-4);
/// ```
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// The weight, then the bias: adjacent, so that a kernel is given one pointer.
    scale: Weight,
    width: usize,
    epsilon: f32,
}

/// What the backward needs of the forward.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormCache<'a> {
    /// What was normalized.
    pub x: TensorView<'a>,
    /// What the forward wrote of each row.
    pub moments: TensorView<'a>,
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

    /// Adds to the gradients of weight and bias; writes `dx`, or adds to it.
    pub fn backward(
        &self,
        values: TensorView<'_>,
        gradients: &mut TensorViewMut<'_>,
        cache: LayerNormCache<'_>,
        dy: TensorView<'_>,
        dx: TensorViewMut<'_>,
        accumulate: Accumulate,
    ) {
        let scale = self.scale.slice_of(values);
        let scale_gradients = self.scale.slice_of(gradients.reborrow());
        match dx {
            TensorViewMut::Host(dx) => {
                let rows =
                    cpu::NormalizedRows::new(cache.x.expect_host(), cache.moments.expect_host());
                let dy = dy.expect_host();
                self.backward_weights_host(scale_gradients.expect_host(), rows, dy);
                self.backward_input_host(scale.expect_host(), rows, dy, dx, accumulate);
            }
            TensorViewMut::Device(mut dx) => {
                let rows = gpu::NormalizedRows {
                    x: cache.x.expect_device(),
                    moments: cache.moments.expect_device(),
                };

                let scale = scale.expect_device();
                let mut scale_gradients = scale_gradients.expect_device();
                let dy = dy.expect_device();
                gpu::backward(scale, &mut scale_gradients, rows, dy, &mut dx, accumulate);
            }
        }
    }
}
