//! Convolution on a device: the neighbourhoods of a few places at a time are laid out as rows, in the
//! order of the weight's numbers, and multiplied.

use crate::device::{Buffer, Operand, Product};
use crate::device::{Launch, Span, SpanMut};
use crate::ops::conv2d::{Grid, TAPS};
use crate::ops::linear::gpu::in_format;

/// Numbers of laid out rows that are multiplied at a time: as many as a device's cache holds.
pub const PIECE: usize = 1 << 23;

/// Pairs of a place and a channel whose neighbours one block of threads lays out.
const BLOCK: usize = 256;

/// Writes `y`.
pub(crate) fn forward(
    grid: &Grid,
    weight: Span<'_>,
    x: Span<'_>,
    y: SpanMut<'_>,
    rows: &mut Buffer,
) {
    let row = grid.row();
    let outputs = weight.len() / grid.row();
    let weight = Operand::new(in_format(weight, x.format()), row).transposed();
    unfold(grid, x, rows, |places, rows| {
        let y = y.span().part(places.start * outputs..places.end * outputs);
        let product = Product::new(Operand::new(y, outputs), Operand::new(rows, row), weight);
        x.device().multiply(&product);
    });
}

/// Adds to the gradient of the weight.
pub(crate) fn backward_weights(
    grid: &Grid,
    gradient: SpanMut<'_>,
    x: Span<'_>,
    dy: Span<'_>,
    rows: &mut Buffer,
) {
    let row = grid.row();
    let outputs = gradient.len() / grid.row();
    let target = Operand::new(gradient.span(), row);
    unfold(grid, x, rows, |places, rows| {
        let dy = dy.part(places.start * outputs..places.end * outputs);
        let pair = (
            Operand::new(dy, outputs).transposed(),
            Operand::new(rows, row),
        );

        let product = Product {
            add: true,
            ..Product::new(target, pair.0, pair.1)
        };

        x.device().multiply(&product);
    });
}

/// Writes `dx`: the same convolution of `dy`, with the weight turned around.
pub(crate) fn backward_input(
    grid: &Grid,
    weight: Span<'_>,
    dy: Span<'_>,
    dx: SpanMut<'_>,
    (turned, rows): (&mut Buffer, &mut Buffer),
) {
    let inputs = grid.channels;
    let outputs = weight.len() / grid.row();
    let mut turned = turned.span_mut().first(weight.len());
    let launch = Launch::typed("conv2d_turn", dy.format()).over(weight.len());
    let launch = launch
        .read(weight)
        .write(&mut turned)
        .whole(outputs)
        .whole(inputs);

    launch.run(dy.device());
    // The turned weight is its own rounding: it lies in the format of `dy`.
    let turned = Operand::new(turned.span(), TAPS * outputs).transposed();
    let row = TAPS * outputs;
    unfold(&grid.of(outputs), dy, rows, |places, rows| {
        let dx = dx.span().part(places.start * inputs..places.end * inputs);
        let product = Product::new(Operand::new(dx, inputs), Operand::new(rows, row), turned);
        dy.device().multiply(&product);
    });
}

/// Lays the neighbourhoods of as many places out as there is room for, and hands them on, until all
/// were.
fn unfold(
    grid: &Grid,
    x: Span<'_>,
    rows: &mut Buffer,
    mut work: impl FnMut(std::ops::Range<usize>, Span<'_>),
) {
    let Grid {
        side,
        channels,
        stride,
        ..
    } = *grid;

    let places = x.len() / (side * side * channels) * grid.line().pow(2);
    let step = rows.len() / grid.row();
    for start in (0..places).step_by(step) {
        let count = step.min(places - start);
        let mut rows = rows.span_mut().first(count * grid.row());
        let launch = Launch::typed("conv2d_unfold", x.format());
        let launch = launch
            .grid((count * channels).div_ceil(BLOCK), 1, 1)
            .threads(BLOCK);

        let launch = launch.read(x).write(&mut rows).whole(start).whole(count);
        launch
            .whole(side)
            .whole(channels)
            .whole(stride)
            .run(x.device());

        work(start..start + count, rows.span());
    }
}
