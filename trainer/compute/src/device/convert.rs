//! Writes numbers in another format.

use super::{Launch, Span, SpanMut};

/// Writes numbers in another format, and rounded beside them where they are kept so.
pub(super) fn convert(from: Span<'_>, mut to: SpanMut<'_>) {
    let device = to.device();
    let len = to.len();
    let names =
        [from.format(), to.span().format()].map(|format| format!("{format:?}").to_lowercase());
    let launch = Launch::new(&format!("convert_{}_{}", names[0], names[1])).over(len.div_ceil(8));

    launch
        .read(from)
        .write(&mut to)
        .write_rounded(&mut to)
        .whole(len)
        .run(device);
}
