//! L2 normalization of features, row by row.

mod cpu;
mod gpu;

use crate::tensor::{TensorView, TensorViewMut};

/// `y = x / ‖x‖`, row by row.
///
/// # Shapes
/// `x`, `y` `[rows, width]`.
///
/// ```
/// use cnclip_compute::ops::l2_normalize;
///
/// let x = vec![3.0, 4.0];
/// let mut y = vec![0.0; 2];
/// l2_normalize::forward(2, (&x).into(), (&mut y).into());
/// assert_eq!(y, [0.6, 0.8]);
/// ```
pub fn forward(width: usize, x: TensorView<'_>, y: TensorViewMut<'_>) {
    match y {
        TensorViewMut::Host(y) => cpu::forward(width, x.expect_host(), y),
        TensorViewMut::Device(mut y) => gpu::forward(width, x.expect_device(), &mut y),
    }
}

/// Writes `dx`.
///
/// # Shapes
/// `x`, `dy`, `dx` `[rows, width]`.
pub fn backward(width: usize, x: TensorView<'_>, dy: TensorView<'_>, dx: TensorViewMut<'_>) {
    match dx {
        TensorViewMut::Host(dx) => cpu::backward(width, x.expect_host(), dy.expect_host(), dx),
        TensorViewMut::Device(mut dx) => {
            gpu::backward(width, x.expect_device(), dy.expect_device(), &mut dx)
        }
    }
}
