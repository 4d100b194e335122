//! Convolution on a device: the neighbourhoods of a few places at a time are laid out as rows, in the
//! order of the weight's numbers, and multiplied.

use crate::device::{DeviceBuffer, Gemm, MatrixDesc};
use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::ops::conv2d::{ConvGeometry, KERNEL_TAPS};
use crate::ops::linear::gpu::weight_in_dtype;

/// Numbers of laid out rows that are multiplied at a time: as many as a device's cache holds.
pub const MAX_IM2COL_LEN: usize = 1 << 23;

/// Pairs of a place and a channel whose neighbours one block of threads lays out.
const IM2COL_PER_BLOCK: usize = 256;

/// Writes `y`.
pub(crate) fn forward(
    grid: &ConvGeometry,
    weight: DeviceView<'_>,
    x: DeviceView<'_>,
    y: DeviceViewMut<'_>,
    rows: &mut DeviceBuffer,
) {
    let row = grid.patch_len();
    let outputs = weight.len() / grid.patch_len();
    let weight = MatrixDesc::new(weight_in_dtype(weight, x.dtype()), row).transposed();
    im2col_chunks(grid, x, rows, |places, rows| {
        let y = y
            .as_view()
            .slice(places.start * outputs..places.end * outputs);
        let product = Gemm::new(
            MatrixDesc::new(y, outputs),
            MatrixDesc::new(rows, row),
            weight,
        );
        x.device().gemm(&product);
    });
}

/// Adds to the gradient of the weight.
pub(crate) fn backward_weights(
    grid: &ConvGeometry,
    gradient: DeviceViewMut<'_>,
    x: DeviceView<'_>,
    dy: DeviceView<'_>,
    rows: &mut DeviceBuffer,
) {
    let row = grid.patch_len();
    let outputs = gradient.len() / grid.patch_len();
    let target = MatrixDesc::new(gradient.as_view(), row);
    im2col_chunks(grid, x, rows, |places, rows| {
        let dy = dy.slice(places.start * outputs..places.end * outputs);
        let pair = (
            MatrixDesc::new(dy, outputs).transposed(),
            MatrixDesc::new(rows, row),
        );

        let product = Gemm {
            accumulate: true,
            ..Gemm::new(target, pair.0, pair.1)
        };

        x.device().gemm(&product);
    });
}

/// Writes `dx`: the same convolution of `dy`, with the weight turned around.
pub(crate) fn backward_input(
    grid: &ConvGeometry,
    weight: DeviceView<'_>,
    dy: DeviceView<'_>,
    dx: DeviceViewMut<'_>,
    (turned, rows): (&mut DeviceBuffer, &mut DeviceBuffer),
) {
    let inputs = grid.channels;
    let outputs = weight.len() / grid.patch_len();
    let mut turned = turned.as_view_mut().first_n(weight.len());
    let launch =
        KernelLaunch::for_dtype("conv2d_turn", dy.dtype()).with_thread_per_item(weight.len());
    let launch = launch
        .arg_input(weight)
        .arg_output(&mut turned)
        .arg_u32(outputs)
        .arg_u32(inputs);

    launch.launch_on(dy.device());
    // The turned weight is its own rounding: it lies in the format of `dy`.
    let turned = MatrixDesc::new(turned.as_view(), KERNEL_TAPS * outputs).transposed();
    let row = KERNEL_TAPS * outputs;
    im2col_chunks(&grid.with_channels(outputs), dy, rows, |places, rows| {
        let dx = dx
            .as_view()
            .slice(places.start * inputs..places.end * inputs);
        let product = Gemm::new(
            MatrixDesc::new(dx, inputs),
            MatrixDesc::new(rows, row),
            turned,
        );
        dy.device().gemm(&product);
    });
}

/// Lays the neighbourhoods of as many places out as there is room for, and hands them on, until all
/// were.
fn im2col_chunks(
    grid: &ConvGeometry,
    x: DeviceView<'_>,
    rows: &mut DeviceBuffer,
    mut work: impl FnMut(std::ops::Range<usize>, DeviceView<'_>),
) {
    let ConvGeometry {
        side,
        channels,
        stride,
        ..
    } = *grid;

    let places = x.len() / (side * side * channels) * grid.output_side().pow(2);
    let step = rows.len() / grid.patch_len();
    for start in (0..places).step_by(step) {
        let count = step.min(places - start);
        let mut rows = rows.as_view_mut().first_n(count * grid.patch_len());
        let launch = KernelLaunch::for_dtype("conv2d_unfold", x.dtype());
        let launch = launch
            .with_grid((count * channels).div_ceil(IM2COL_PER_BLOCK), 1, 1)
            .with_threads(IM2COL_PER_BLOCK);

        let launch = launch
            .arg_input(x)
            .arg_output(&mut rows)
            .arg_u32(start)
            .arg_u32(count);
        launch
            .arg_u32(side)
            .arg_u32(channels)
            .arg_u32(stride)
            .launch_on(x.device());

        work(start..start + count, rows.as_view());
    }
}
