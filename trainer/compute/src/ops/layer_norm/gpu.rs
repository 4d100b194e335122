//! Layer normalisation.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::gemm::Accumulate;
use crate::ops::linear::gpu::column_sum_blocks;

/// Rows that one block takes: a warp each.
const ROWS_PER_BLOCK: usize = 8;

/// Writes `y`, and the moments that the backward needs.
///
/// # Shapes
/// `scale` [2, width]: weight and bias; `x`, `y` [rows, width]; `moments` [rows, 2].
pub fn forward(
    scale: DeviceView<'_>,
    epsilon: f32,
    x: DeviceView<'_>,
    y: &mut DeviceViewMut<'_>,
    moments: &mut DeviceViewMut<'_>,
) {
    let width = scale.len() / 2;
    let device = y.device();
    let rows = x.len() / width;
    let launch = KernelLaunch::for_dtype("layer_norm_forward", x.dtype()).with_grid(
        rows.div_ceil(ROWS_PER_BLOCK),
        1,
        1,
    );
    let launch = launch
        .arg_input(scale)
        .arg_input(x)
        .arg_output(y)
        .arg_output(moments);

    launch
        .arg_u32(rows)
        .arg_u32(width)
        .arg_f32(epsilon)
        .launch_on(device);
}

/// Adds to the gradients of the weights; writes `dx`, or adds to it.
///
/// # Shapes
/// As in [`forward`]; `gradients` as `scale`.
pub fn backward(
    (scale, gradients): (DeviceView<'_>, &mut DeviceViewMut<'_>),
    (x, moments): (DeviceView<'_>, DeviceView<'_>),
    dy: DeviceView<'_>,
    dx: &mut DeviceViewMut<'_>,
    onto: Accumulate,
) {
    let width = scale.len() / 2;
    let device = dx.device();
    let rows = x.len() / width;
    let (grid, parts) = column_sum_blocks(rows, width);
    let launch = KernelLaunch::for_dtype("layer_norm_weights", x.dtype()).with_grid(grid, parts, 1);
    let launch = launch
        .arg_input(x)
        .arg_input(moments)
        .arg_input(dy)
        .arg_output(gradients);

    launch.arg_u32(rows).arg_u32(width).launch_on(device);
    let launch = KernelLaunch::for_dtype("layer_norm_backward", x.dtype()).with_grid(
        rows.div_ceil(ROWS_PER_BLOCK),
        1,
        1,
    );
    let launch = launch
        .arg_input(scale)
        .arg_input(x)
        .arg_input(moments)
        .arg_input(dy)
        .arg_output(dx);
    launch
        .arg_u32(rows)
        .arg_u32(width)
        .arg_u32((onto == Accumulate::Yes).into())
        .launch_on(device);
}
