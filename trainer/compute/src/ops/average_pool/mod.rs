//! Average pooling of 2 × 2 pixels in NHWC order: what the residual network has instead of strides.

mod cpu;
mod gpu;

use crate::gemm::Accumulate;
use crate::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

/// Average pooling that halves the side of an image.
///
/// # Shapes
/// `x` `[batch, side, side, channels]`, `y` `[batch, side / 2, side / 2, channels]`.
///
/// ```
/// use cnclip_compute::ops::average_pool::AveragePool;
///
/// let pool = AveragePool { side: 2, channels: 1 };
/// let x = vec![1.0, 2.0, 3.0, 6.0];
/// let mut y = vec![0.0];
/// pool.forward((&x).into(), (&mut y).into());
/// assert_eq!(y, [3.0]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AveragePool {
    /// Side of an input image; even.
    pub side: usize,
    /// Channels.
    pub channels: usize,
}

impl AveragePool {
    /// Writes `y`.
    pub fn forward(self, x: TensorView<'_>, y: TensorViewMut<'_>) {
        match (x, y) {
            (TensorView::Host(x), TensorViewMut::Host(y)) => cpu::forward(self, x, y),
            (TensorView::Device(x), TensorViewMut::Device(y)) => gpu::forward(self, x, y),
            _ => panic_mixed_memories(),
        }
    }

    /// Writes a quarter of `dy` to each of its four pixels in `dx`, or adds it.
    pub fn backward(self, dy: TensorView<'_>, dx: TensorViewMut<'_>, accumulate: Accumulate) {
        match (dy, dx) {
            (TensorView::Host(dy), TensorViewMut::Host(dx)) => {
                cpu::backward(self, dy, dx, accumulate)
            }
            (TensorView::Device(dy), TensorViewMut::Device(dx)) => {
                gpu::backward(self, dy, dx, accumulate)
            }
            _ => panic_mixed_memories(),
        }
    }
}
