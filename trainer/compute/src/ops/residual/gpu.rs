//! Where two branches meet, on a device: a thread for eight numbers.

use crate::device::{Launch, Span, SpanMut};

/// Writes the gradient before a rectifier that gave `y`, twice.
pub(crate) fn rectify(y: Span<'_>, mut dy: SpanMut<'_>, mut copy: SpanMut<'_>) {
    let launch = Launch::typed("branch_rectify", y.format())
        .over(y.len().div_ceil(8))
        .read(y);

    launch
        .write(&mut dy)
        .write(&mut copy)
        .whole(y.len())
        .run(y.device());
}

/// Adds `x` to `y`.
pub(crate) fn add(x: Span<'_>, mut y: SpanMut<'_>) {
    let launch = Launch::typed("branch_add", x.format())
        .over(x.len().div_ceil(8))
        .read(x)
        .write(&mut y);

    launch.whole(x.len()).run(x.device());
}
