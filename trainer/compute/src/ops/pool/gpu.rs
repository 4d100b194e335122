//! The mean of squares on a device: a thread for each number that is written.

use crate::device::{Launch, Span, SpanMut};
use crate::gemm::Onto;
use crate::ops::pool::AveragePool;

/// Writes `y`.
pub(crate) fn forward(pool: AveragePool, x: Span<'_>, mut y: SpanMut<'_>) {
    let launch = Launch::typed("pool_forward", x.format())
        .over(y.len())
        .read(x)
        .write(&mut y);

    launch
        .whole(y.len())
        .whole(pool.side)
        .whole(pool.channels)
        .run(x.device());
}

/// Writes a quarter of `dy` to each pixel of its square in `dx`, or adds it.
pub(crate) fn backward(pool: AveragePool, dy: Span<'_>, mut dx: SpanMut<'_>, onto: Onto) {
    let launch = Launch::typed("pool_backward", dy.format())
        .over(dx.len())
        .read(dy)
        .write(&mut dx);

    let launch = launch.whole(dx.len()).whole(pool.side).whole(pool.channels);
    launch
        .whole(usize::from(onto == Onto::Add))
        .run(dy.device());
}
