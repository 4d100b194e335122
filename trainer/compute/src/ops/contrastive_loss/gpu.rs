//! Rows of logits: what is to know of each, and their gradients.

use crate::device::{Launch, Span, SpanMut};

/// Which pairs are right for each other: those with the same number for a picture or for a caption.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// A number for the picture of each pair.
    pub images: Span<'a>,
    /// A number for its caption.
    pub texts: Span<'a>,
    /// What each pair that is right for a pair is worth to it.
    pub shares: Span<'a>,
}

/// Numbers that [`rows`] finds of each row.
pub const FOUND: usize = 3;

/// Finds of each row, of which the first is that of pair `first`: ln Σ eˣ, the mean of what is right, and
/// whether the nearest is right.
///
/// # Shapes
/// `logits` [rows, pairs], `found` [rows, 3].
pub fn rows(
    logits: Span<'_>,
    (first, pairs): (usize, usize),
    targets: Targets<'_>,
    found: &mut SpanMut<'_>,
) {
    let rows = logits.len() / pairs;
    let device = found.device();
    let launch = Launch::new("loss_rows").grid(rows, 1, 1).read(logits);
    let launch = launch
        .read(targets.images)
        .read(targets.texts)
        .read(targets.shares);

    launch.write(found).whole(first).whole(pairs).run(device);
}

/// Logits become their gradients, given ln Σ eˣ of all rows and of all columns; each row's part of the
/// gradient of the logit scale is told.
///
/// # Shapes
/// `logits` [rows, pairs], both sums [pairs], `slopes` [rows].
pub fn differentiate(
    logits: &mut SpanMut<'_>,
    (first, pairs): (usize, usize),
    (of_rows, of_columns): (Span<'_>, Span<'_>),
    targets: Targets<'_>,
    slopes: &mut SpanMut<'_>,
) {
    let rows = logits.len() / pairs;
    let device = logits.device();
    let launch = Launch::new("loss_differentiate")
        .grid(rows, 1, 1)
        .write(logits);

    let launch = launch.read(of_rows).read(of_columns);
    let launch = launch
        .read(targets.images)
        .read(targets.texts)
        .read(targets.shares);

    let launch = launch
        .write(slopes)
        .whole(first)
        .whole(pairs)
        .real(0.5 / pairs as f32);

    launch.run(device);
}
