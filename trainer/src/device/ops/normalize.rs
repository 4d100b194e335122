//! Features made unit vectors. Both are fp32; the gradient is in the format of activations.

use crate::device::{Launch, Span, SpanMut};

/// Rows that one block takes: a warp each.
const ROWS: usize = 8;

/// `y = x / |x|`, row by row.
///
/// # Shapes
/// `x`, `y` [rows, width].
pub fn forward(width: usize, x: Span<'_>, y: &mut SpanMut<'_>) {
    run("normalize_forward", width, x, y);
}

/// `dy` becomes `dx`.
///
/// # Shapes
/// `x`, `dy` [rows, width].
pub fn backward(width: usize, x: Span<'_>, dy: &mut SpanMut<'_>) {
    run("normalize_backward", width, x, dy);
}

fn run(name: &str, width: usize, x: Span<'_>, y: &mut SpanMut<'_>) {
    let (rows, device) = (x.len() / width, y.device());
    let launch = Launch::typed(name, y.span().format()).grid(rows.div_ceil(ROWS), 1, 1);
    launch.read(x).write(y).whole(rows).whole(width).run(device);
}
