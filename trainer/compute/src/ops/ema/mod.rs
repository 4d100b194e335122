//! The exponential moving average (EMA) of the weights.

mod cpu;
mod gpu;

use crate::tensor::{Tensor, TensorView, TensorViewMut, panic_mixed_memories};

/// `averages += (1 - decay) · (values - averages)`.
///
/// # Shapes
/// Both of the same length; `averages` is fp32.
///
/// ```
/// use cnclip_compute::ops::ema;
///
/// let mut averages = vec![1.0, 2.0];
/// ema::update((&mut averages).into(), (&vec![3.0, 2.0]).into(), 0.75);
/// assert_eq!(averages, [1.5, 2.0]);
/// ```
pub fn update(averages: TensorViewMut<'_>, values: TensorView<'_>, decay: f32) {
    match averages {
        TensorViewMut::Host(averages) => cpu::update(averages, values.expect_host(), decay),
        TensorViewMut::Device(mut averages) => {
            gpu::update(&mut averages, values.expect_device(), decay)
        }
    }
}

/// Exchanges averages and weights.
///
/// # Guarantees
/// The bfloat16 copy of the weights follows them.
pub fn swap(averages: &mut Tensor, values: &mut Tensor) {
    match (averages, values) {
        (Tensor::Host(averages), Tensor::Host(values)) => std::mem::swap(averages, values),
        // Value by value, not buffer by buffer: only the weights have a bfloat16 copy, which has to follow.
        (Tensor::Device(averages), Tensor::Device(values)) => {
            gpu::swap(&mut averages.as_view_mut(), &mut values.as_view_mut());
        }
        _ => panic_mixed_memories(),
    }
}
