//! Features made unit vectors. Both are fp32; the gradient that goes on is in the format of activations.

use crate::device::{Launch, Span, SpanMut};

/// Rows that one block takes: a warp each.
const ROWS: usize = 8;

/// `y = x / |x|`, row by row.
///
/// # Shapes
/// `x`, `y` [rows, width].
pub fn forward(width: usize, x: Span<'_>, y: &mut SpanMut<'_>) {
    let rows = x.len() / width;
    let device = y.device();
    let launch = Launch::new("normalize_forward").grid(rows.div_ceil(ROWS), 1, 1);
    launch.read(x).write(y).whole(rows).whole(width).run(device);
}

/// Writes `dx`.
///
/// # Shapes
/// `x`, `dy`, `dx` [rows, width].
pub fn backward(width: usize, x: Span<'_>, dy: Span<'_>, dx: &mut SpanMut<'_>) {
    let rows = x.len() / width;
    let device = dx.device();
    let launch = Launch::typed("normalize_backward", dx.span().format());
    let launch = launch
        .grid(rows.div_ceil(ROWS), 1, 1)
        .read(x)
        .read(dy)
        .write(dx);

    launch.whole(rows).whole(width).run(device);
}
