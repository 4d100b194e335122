//! Pictures as the towers take them: normalised on the way in, from bytes or from numbers.

use crate::device::{Format, Launch, Span, SpanMut};

/// Writes the patches that are seen of each picture as rows behind one row of zeros.
///
/// # Shapes
/// `pixels` [batch, 3, side, side], bytes or normalised numbers; `seen` [batch, seen], `patches`
/// [batch, 1 + seen, 3 · patch²].
pub fn cut_patches(
    pixels: Span<'_>,
    (side, patch): (usize, usize),
    seen: Span<'_>,
    patches: &mut SpanMut<'_>,
) {
    let device = patches.device();
    let batch = pixels.len() / (3 * side * side);
    let of_picture = seen.len() / batch;
    let launch = Launch::typed(&name("cut_patches", pixels), patches.span().format());
    let launch = launch
        .grid(batch * (1 + of_picture), 1, 1)
        .read(pixels)
        .read(seen);

    launch
        .write(patches)
        .whole(of_picture)
        .whole(side)
        .whole(patch)
        .run(device);
}

/// Writes each picture with its channels as neighbours: what a convolution takes.
///
/// # Shapes
/// `pixels` as in [`cut_patches`], `out` [batch, side, side, 3].
pub fn interleave(pixels: Span<'_>, side: usize, out: &mut SpanMut<'_>) {
    let device = out.device();
    let points = pixels.len() / 3;
    let launch = Launch::typed(&name("interleave", pixels), out.span().format()).over(points);
    launch
        .read(pixels)
        .write(out)
        .whole(points)
        .whole(side)
        .run(device);
}

fn name(name: &str, pixels: Span<'_>) -> String {
    let source = if pixels.format() == Format::U8 {
        "bytes"
    } else {
        "numbers"
    };

    format!("{name}_{source}")
}
