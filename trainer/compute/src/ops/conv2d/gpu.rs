//! Convolution on a device: the windows of some output pixels at a time are laid out as rows, in the order
//! of the weight's numbers, and multiplied.

use std::ops::Range;

use crate::device::{DeviceBuffer, DeviceView, DeviceViewMut, Gemm, KernelLaunch, MatrixDesc};
use crate::ops::conv2d::{ConvGeometry, KERNEL_TAPS};
use crate::ops::linear::gpu::weight_in_dtype;

/// Numbers of laid out rows that are multiplied at a time: as many as a device's L2 cache holds.
pub const MAX_IM2COL_LEN: usize = 1 << 23;

/// Pairs of an output pixel and a channel whose windows one block lays out, one a thread.
const IM2COL_PER_BLOCK: usize = 256;

/// Writes `y`.
pub(super) fn forward(
    geometry: &ConvGeometry,
    weight: DeviceView<'_>,
    x: DeviceView<'_>,
    y: DeviceViewMut<'_>,
    rows: &mut DeviceBuffer,
) {
    let row_len = geometry.patch_len();
    let outputs = weight.len() / row_len;
    let weight = MatrixDesc::new(weight_in_dtype(weight, x.dtype()), row_len).transposed();
    im2col_chunks(geometry, x, rows, |pixels, rows| {
        let y = pixel_rows(y.as_view(), &pixels, outputs);
        let product = Gemm::new(y, MatrixDesc::new(rows, row_len), weight);
        x.device().gemm(&product);
    });
}

/// Adds to the gradient of the weight.
pub(super) fn backward_weights(
    geometry: &ConvGeometry,
    gradient: DeviceViewMut<'_>,
    x: DeviceView<'_>,
    dy: DeviceView<'_>,
    rows: &mut DeviceBuffer,
) {
    let row_len = geometry.patch_len();
    let outputs = gradient.len() / row_len;
    let target = MatrixDesc::new(gradient.as_view(), row_len);
    im2col_chunks(geometry, x, rows, |pixels, rows| {
        let dy = pixel_rows(dy, &pixels, outputs).transposed();
        let product = Gemm {
            // One stream executes the pieces in order: they are added in the same order in every
            // run.
            accumulate: true,
            ..Gemm::new(target, dy, MatrixDesc::new(rows, row_len))
        };

        x.device().gemm(&product);
    });
}

/// Writes `dx`: a convolution of `dy` with the flipped weight.
pub(super) fn backward_input(
    geometry: &ConvGeometry,
    weight: DeviceView<'_>,
    dy: DeviceView<'_>,
    dx: DeviceViewMut<'_>,
    flipped: &mut DeviceBuffer,
    rows: &mut DeviceBuffer,
) {
    let inputs = geometry.channels;
    let outputs = weight.len() / geometry.patch_len();
    let row_len = KERNEL_TAPS * outputs;
    let mut flipped = flipped.as_view_mut().first_n(weight.len());
    KernelLaunch::for_dtype("conv2d_turn", dy.dtype())
        .with_thread_per_item(weight.len())
        .arg_input(weight)
        .arg_output(&mut flipped)
        .arg_u32(outputs)
        .arg_u32(inputs)
        .launch_on(dy.device());

    // The kernel wrote the number format of `dy`, so the flipped weight needs no bfloat16 copy.
    let flipped = MatrixDesc::new(flipped.as_view(), row_len).transposed();
    im2col_chunks(
        &geometry.with_channels(outputs),
        dy,
        rows,
        |pixels, rows| {
            let dx = pixel_rows(dx.as_view(), &pixels, inputs);
            let product = Gemm::new(dx, MatrixDesc::new(rows, row_len), flipped);
            dy.device().gemm(&product);
        },
    );
}

/// The rows of some pixels as a matrix.
fn pixel_rows(view: DeviceView<'_>, pixels: &Range<usize>, channels: usize) -> MatrixDesc {
    let range = pixels.start * channels..pixels.end * channels;
    MatrixDesc::new(view.slice(range), channels)
}

/// Lays out the windows of as many output pixels as there is memory for and calls `work` with both, until
/// all were laid out.
fn im2col_chunks(
    geometry: &ConvGeometry,
    x: DeviceView<'_>,
    rows: &mut DeviceBuffer,
    mut work: impl FnMut(Range<usize>, DeviceView<'_>),
) {
    let pixels = geometry.count_output_pixels(x.len());
    let step = rows.len() / geometry.patch_len();
    for start in (0..pixels).step_by(step) {
        let count = step.min(pixels - start);
        let mut rows = rows.as_view_mut().first_n(count * geometry.patch_len());
        let blocks = (count * geometry.channels).div_ceil(IM2COL_PER_BLOCK);
        KernelLaunch::for_dtype("conv2d_unfold", x.dtype())
            .with_grid(blocks, 1, 1)
            .with_threads(IM2COL_PER_BLOCK)
            .arg_input(x)
            .arg_output(&mut rows)
            .arg_u32(start)
            .arg_u32(count)
            .arg_u32(geometry.side)
            .arg_u32(geometry.channels)
            .arg_u32(geometry.stride)
            .launch_on(x.device());

        work(start..start + count, rows.as_view());
    }
}
