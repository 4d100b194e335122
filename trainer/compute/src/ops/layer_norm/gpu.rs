//! Layer normalisation.

use crate::device::{Launch, Span, SpanMut};
use crate::gemm::Onto;
use crate::ops::linear::gpu::columns;

/// Rows that one block takes: a warp each.
const ROWS: usize = 8;

/// Writes `y`, and the moments that the backward needs.
///
/// # Shapes
/// `scale` [2, width]: weight and bias; `x`, `y` [rows, width]; `moments` [rows, 2].
pub fn forward(
    scale: Span<'_>,
    epsilon: f32,
    x: Span<'_>,
    y: &mut SpanMut<'_>,
    moments: &mut SpanMut<'_>,
) {
    let width = scale.len() / 2;
    let device = y.device();
    let rows = x.len() / width;
    let launch = Launch::typed("layer_norm_forward", x.format()).grid(rows.div_ceil(ROWS), 1, 1);
    let launch = launch.read(scale).read(x).write(y).write(moments);

    launch.whole(rows).whole(width).real(epsilon).run(device);
}

/// Adds to the gradients of the weights; writes `dx`, or adds to it.
///
/// # Shapes
/// As in [`forward`]; `gradients` as `scale`.
pub fn backward(
    (scale, gradients): (Span<'_>, &mut SpanMut<'_>),
    (x, moments): (Span<'_>, Span<'_>),
    dy: Span<'_>,
    dx: &mut SpanMut<'_>,
    onto: Onto,
) {
    let width = scale.len() / 2;
    let device = dx.device();
    let rows = x.len() / width;
    let (grid, parts) = columns(rows, width);
    let launch = Launch::typed("layer_norm_weights", x.format()).grid(grid, parts, 1);
    let launch = launch.read(x).read(moments).read(dy).write(gradients);

    launch.whole(rows).whole(width).run(device);
    let launch = Launch::typed("layer_norm_backward", x.format()).grid(rows.div_ceil(ROWS), 1, 1);
    let launch = launch.read(scale).read(x).read(moments).read(dy).write(dx);
    launch
        .whole(rows)
        .whole(width)
        .whole((onto == Onto::Add).into())
        .run(device);
}
