//! A running average of the weights.

use crate::device::{Launch, Span, SpanMut};

/// Moves each average by a share of the way to its value.
pub fn add(averages: &mut SpanMut<'_>, values: Span<'_>, share: f32) {
    let device = averages.device();
    let count = averages.len();
    let launch = Launch::new("average_add")
        .over(count)
        .write(averages)
        .read(values);

    launch.whole(count).real(share).run(device);
}

/// Exchanges the numbers of both; those that the weights take are rounded, too.
pub fn swap(averages: &mut SpanMut<'_>, values: &mut SpanMut<'_>) {
    let device = averages.device();
    let count = averages.len();
    let launch = Launch::new("average_swap")
        .over(count)
        .write(averages)
        .write(values);

    launch.write_rounded(values).whole(count).run(device);
}
