//! The cosines of a teacher's features and one's own.

use crate::device::{Launch, Span, SpanMut};

/// How a vector is stretched: each place lies between two neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Stretch<'a> {
    /// The left neighbour of each place.
    pub firsts: Span<'a>,
    /// The first place whose left neighbour is at least this; one more than there are neighbours.
    pub begins: Span<'a>,
    /// The right neighbour's share of each place.
    pub shares: Span<'a>,
}

/// The cosine of each pair of rows; adds the gradient of `−scale · cosine` to that of the features.
///
/// # Shapes
/// `taught` [rows, wide], `features` and `gradients` [rows, width], `cosines` [rows].
pub fn cosines(
    stretch: Stretch<'_>,
    taught: Span<'_>,
    (features, gradients): (Span<'_>, &mut SpanMut<'_>),
    cosines: &mut SpanMut<'_>,
    (scale, shortest): (f32, f32),
) {
    let rows = cosines.len();
    let device = cosines.device();
    let width = stretch.begins.len() - 1;
    let wide = stretch.firsts.len();
    let launch = Launch::new("distillation")
        .grid(rows, 1, 1)
        .read(taught)
        .read(features);

    let launch = launch.write(gradients).write(cosines);
    let launch = launch
        .read(stretch.firsts)
        .read(stretch.begins)
        .read(stretch.shares);

    launch
        .whole(width)
        .whole(wide)
        .real(scale)
        .real(shortest)
        .run(device);
}
