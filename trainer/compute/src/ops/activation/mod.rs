//! Activation functions of the feed-forward layers: QuickGELU of the image tower, GELU of the text tower.

mod cpu;
mod gpu;

use crate::tensor::{TensorView, TensorViewMut};

/// An activation function, applied element by element.
///
/// ```
/// use cnclip_compute::ops::activation::Activation;
///
/// let x = vec![-10.0, 0.0, 10.0];
/// let mut y = vec![0.0; 3];
/// Activation::QuickGelu.forward((&x).into(), (&mut y).into());
/// assert!(y[0].abs() < 1e-3 && y[1] == 0.0 && (y[2] - 10.0).abs() < 1e-3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x · Φ(x)`, with the exact error function and not its tanh approximation.
    Gelu,
    /// `x · σ(1.702 x)`.
    QuickGelu,
}

impl Activation {
    /// `y = f(x)`.
    ///
    /// # Shapes
    /// `x` and `y` have the same length.
    pub fn forward(self, x: TensorView<'_>, y: TensorViewMut<'_>) {
        match y {
            TensorViewMut::Host(y) => cpu::forward(self, x.expect_host(), y),
            TensorViewMut::Device(mut y) => gpu::forward(self, x.expect_device(), &mut y),
        }
    }

    /// `dy` becomes `dx`: it is multiplied by the derivative at `x`.
    ///
    /// # Shapes
    /// `x` and `dy` have the same length.
    pub fn backward(self, x: TensorView<'_>, dy: TensorViewMut<'_>) {
        match dy {
            TensorViewMut::Host(dy) => cpu::backward(self, x.expect_host(), dy),
            TensorViewMut::Device(mut dy) => gpu::backward(self, x.expect_device(), &mut dy),
        }
    }
}
