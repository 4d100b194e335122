//! The tokens of pictures on a device: a thread for each channel of each picture.

use crate::device::{Launch, Span, SpanMut};

/// Writes the tokens of each picture, and the first of each a second time.
pub(crate) fn forward(
    width: usize,
    positions: Span<'_>,
    x: Span<'_>,
    (mut tokens, mut means): (SpanMut<'_>, SpanMut<'_>),
) {
    let pictures = means.len() / width;
    let places = positions.len() / width - 1;
    let launch = Launch::typed("mean_token_forward", x.format());
    let launch = launch
        .grid(width.div_ceil(256), pictures, 1)
        .read(positions)
        .read(x);

    let launch = launch
        .write(&mut tokens)
        .write(&mut means)
        .whole(places)
        .whole(width);

    launch.run(x.device());
}

/// Writes `dx`, and adds the gradient of the means to that of the first tokens.
pub(crate) fn backward(
    width: usize,
    mut dtokens: SpanMut<'_>,
    dmeans: Span<'_>,
    mut dx: SpanMut<'_>,
) {
    let pictures = dmeans.len() / width;
    let launch = Launch::typed("mean_token_backward", dmeans.format());
    let launch = launch
        .grid(width.div_ceil(256), pictures, 1)
        .write(&mut dtokens)
        .read(dmeans);

    let launch = launch
        .write(&mut dx)
        .whole(dx.len() / dmeans.len())
        .whole(width);

    launch.run(dmeans.device());
}
