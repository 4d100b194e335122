//! Where the tokens of a picture lie in it: the class token, then the patches that are seen.

use crate::device::{Launch, Span, SpanMut};

/// Writes the row of each token's place, and adds the class embedding to each picture's first.
///
/// # Shapes
/// `positions` [1 + patches, width], `class` [width], `seen` [batch, seen], `y` [batch, 1 + seen, width].
pub fn forward(
    (positions, class): (Span<'_>, Span<'_>),
    seen: Span<'_>,
    batch: usize,
    y: &mut SpanMut<'_>,
) {
    let width = class.len();
    let of_picture = seen.len() / batch;
    let device = y.device();
    let launch = Launch::typed("positions_forward", y.span().format()).threads(128);
    let launch = launch
        .grid(batch * (1 + of_picture), 1, 1)
        .read(positions)
        .read(class);

    launch
        .read(seen)
        .write(y)
        .whole(of_picture)
        .whole(width)
        .run(device);
}

/// Adds rows of `dy` to the rows of their places, and those of class tokens to `class`.
///
/// # Shapes
/// As in [`forward`]; patches are seen in rising order.
pub fn backward(
    (positions, class): (&mut SpanMut<'_>, &mut SpanMut<'_>),
    seen: Span<'_>,
    batch: usize,
    dy: Span<'_>,
) {
    let width = class.len();
    let of_picture = seen.len() / batch;
    let device = class.device();
    let launch = Launch::typed("positions_backward", dy.format()).threads(128);
    let launch = launch.grid(positions.len() / width, width.div_ceil(128), 1);
    let launch = launch.write(positions).write(class).read(seen).read(dy);

    launch
        .whole(batch)
        .whole(of_picture)
        .whole(width)
        .run(device);
}
