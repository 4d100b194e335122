//! The joint of a residual block's two branches.

mod cpu;
mod gpu;

use crate::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

/// The gradient before a ReLU, once for each of the two branches whose sum it was applied to: in `dy`,
/// which it replaces, and in `dy_copy`.
///
/// # Shapes
/// All of the same length; `y` is the output of the ReLU.
///
/// ```
/// use cnclip_compute::ops::residual::relu_backward_split;
///
/// let y = vec![0.0, 2.0];
/// let mut dy = vec![3.0, 4.0];
/// let mut copy = vec![0.0; 2];
/// relu_backward_split((&y).into(), (&mut dy).into(), (&mut copy).into());
/// assert_eq!((dy, copy), (vec![0.0, 4.0], vec![0.0, 4.0]));
/// ```
pub fn relu_backward_split(y: TensorView<'_>, dy: TensorViewMut<'_>, dy_copy: TensorViewMut<'_>) {
    match (y, dy, dy_copy) {
        (TensorView::Host(y), TensorViewMut::Host(dy), TensorViewMut::Host(dy_copy)) => {
            cpu::relu_backward_split(y, dy, dy_copy)
        }
        (TensorView::Device(y), TensorViewMut::Device(dy), TensorViewMut::Device(dy_copy)) => {
            gpu::relu_backward_split(y, dy, dy_copy);
        }
        _ => panic_mixed_memories(),
    }
}

/// `y += x`.
///
/// # Shapes
/// Both of the same length.
pub fn add_residual(x: TensorView<'_>, y: TensorViewMut<'_>) {
    match (x, y) {
        (TensorView::Host(x), TensorViewMut::Host(y)) => cpu::add_residual(x, y),
        (TensorView::Device(x), TensorViewMut::Device(y)) => gpu::add_residual(x, y),
        _ => panic_mixed_memories(),
    }
}
