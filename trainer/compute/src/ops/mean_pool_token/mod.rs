//! Image tokens with their mean in front, as CLIP's attention pool takes them: each with its position
//! embedding added.

mod cpu;
mod gpu;

use crate::ops::linear::add_column_sums;
use crate::tensor::{TensorView, TensorViewMut, panic_mixed_memories};

/// Writes the tokens of each image, and the first of each a second time in `means`: the query of the
/// attention pool.
///
/// # Shapes
/// `positions` `[1 + pixels, width]`, `x` `[batch, pixels, width]`, `tokens` `[batch, 1 + pixels, width]`,
/// `means` `[batch, width]`.
///
/// ```
/// use cnclip_compute::ops::mean_pool_token;
///
/// let positions = vec![0.0, 10.0, 20.0];
/// let x = vec![1.0, 3.0];
/// let mut tokens = vec![0.0; 3];
/// let mut means = vec![0.0];
/// mean_pool_token::forward(
///     1,
///     (&positions).into(),
///     (&x).into(),
///     (&mut tokens).into(),
///     (&mut means).into(),
/// );
/// assert_eq!((tokens, means), (vec![2.0, 11.0, 23.0], vec![2.0]));
/// ```
pub fn forward(
    width: usize,
    positions: TensorView<'_>,
    x: TensorView<'_>,
    tokens: TensorViewMut<'_>,
    means: TensorViewMut<'_>,
) {
    match (positions, x, tokens, means) {
        (
            TensorView::Host(positions),
            TensorView::Host(x),
            TensorViewMut::Host(tokens),
            TensorViewMut::Host(means),
        ) => cpu::forward(width, positions, x, tokens, means),
        (
            TensorView::Device(positions),
            TensorView::Device(x),
            TensorViewMut::Device(tokens),
            TensorViewMut::Device(means),
        ) => gpu::forward(width, positions, x, tokens, means),
        _ => panic_mixed_memories(),
    }
}

/// Writes `dx`, adds to the gradient of the positions, and adds the gradient of the means to that of the
/// first tokens, which `dtokens` holds then.
///
/// # Shapes
/// As in [`forward`].
pub fn backward(
    width: usize,
    positions: TensorViewMut<'_>,
    mut dtokens: TensorViewMut<'_>,
    dmeans: TensorView<'_>,
    dx: TensorViewMut<'_>,
) {
    match (dtokens.reborrow(), dmeans, dx) {
        (TensorViewMut::Host(dtokens), TensorView::Host(dmeans), TensorViewMut::Host(dx)) => {
            cpu::backward(width, dtokens, dmeans, dx);
        }
        (TensorViewMut::Device(dtokens), TensorView::Device(dmeans), TensorViewMut::Device(dx)) => {
            gpu::backward(width, dtokens, dmeans, dx);
        }
        _ => panic_mixed_memories(),
    }

    // After the gradients of the means are in `dtokens`: every token's gradient is its position's.
    add_column_sums(dtokens.as_view(), positions);
}
