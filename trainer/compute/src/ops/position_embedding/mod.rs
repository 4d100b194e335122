//! Position embeddings of image tokens: each token gets the row of its position, the first also the class
//! embedding.

mod cpu;
mod gpu;

use crate::tensor::{IndexView, TensorView, TensorViewMut};

/// Writes the position embedding of each token of each image, the class token's first and then those of
/// the visible patches, and adds `class` to the first.
///
/// # Shapes
/// `positions` `[1 + patches, width]`, `class` `[width]`, `visible` `[batch, visible patches]` in rising order,
/// `y` `[batch, 1 + visible patches, width]`.
///
/// ```
/// use cnclip_compute::ops::position_embedding;
///
/// let positions = vec![1.0, 2.0, 3.0];
/// let class = vec![0.5];
/// let visible: &[u32] = &[1];
/// let mut y = vec![0.0; 2];
/// position_embedding::forward(
///     (&positions).into(),
///     (&class).into(),
///     visible.into(),
///     1,
///     (&mut y).into(),
/// );
/// assert_eq!(y, [1.5, 3.0]);
/// ```
pub fn forward(
    positions: TensorView<'_>,
    class: TensorView<'_>,
    visible: IndexView<'_>,
    batch: usize,
    y: TensorViewMut<'_>,
) {
    match y {
        TensorViewMut::Host(y) => cpu::forward(
            positions.expect_host(),
            class.expect_host(),
            visible.expect_host(),
            batch,
            y,
        ),
        TensorViewMut::Device(mut y) => gpu::forward(
            positions.expect_device(),
            class.expect_device(),
            visible.expect_device(),
            batch,
            &mut y,
        ),
    }
}

/// Adds rows of `dy` to the gradients of the rows that they came from.
///
/// # Shapes
/// As in [`forward`]; `positions` and `class` are gradients.
pub fn backward(
    positions: TensorViewMut<'_>,
    class: TensorViewMut<'_>,
    visible: IndexView<'_>,
    batch: usize,
    dy: TensorView<'_>,
) {
    match positions {
        TensorViewMut::Host(positions) => cpu::backward(
            positions,
            class.expect_host(),
            visible.expect_host(),
            batch,
            dy.expect_host(),
        ),
        TensorViewMut::Device(mut positions) => gpu::backward(
            &mut positions,
            &mut class.expect_device(),
            visible.expect_device(),
            batch,
            dy.expect_device(),
        ),
    }
}
