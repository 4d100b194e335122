//! Layer normalization on a device: a warp for each row.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::gemm::Accumulate;
use crate::ops::linear::gpu::column_sum_blocks;

/// Rows that one block takes: a warp each.
const ROWS_PER_BLOCK: usize = 8;

/// Rows and what they were normalized with.
///
/// # Shapes
/// `x` `[rows, width]`, `moments` `[rows, 2]`.
#[derive(Clone, Copy)]
pub(super) struct NormalizedRows<'a> {
    pub(super) x: DeviceView<'a>,
    pub(super) moments: DeviceView<'a>,
}

/// Writes `y`, and the moments that the backward needs.
///
/// # Shapes
/// `scale` [2, width]: weight and bias; `x`, `y` `[rows, width]`; `moments` `[rows, 2]`.
pub(super) fn forward(
    scale: DeviceView<'_>,
    epsilon: f32,
    x: DeviceView<'_>,
    y: &mut DeviceViewMut<'_>,
    moments: &mut DeviceViewMut<'_>,
) {
    let width = scale.len() / 2;
    let device = y.device();
    let rows = x.len() / width;
    let blocks = rows.div_ceil(ROWS_PER_BLOCK);

    KernelLaunch::for_dtype("layer_norm_forward", x.dtype())
        .with_grid(blocks, 1, 1)
        .arg_input(scale)
        .arg_input(x)
        .arg_output(y)
        .arg_output(moments)
        .arg_u32(rows)
        .arg_u32(width)
        .arg_f32(epsilon)
        .launch_on(device);
}

/// Adds to the gradients of weight and bias; writes `dx`, or adds to it.
///
/// # Shapes
/// As in [`forward`]; `scale_gradients` as `scale`.
pub(super) fn backward(
    scale: DeviceView<'_>,
    scale_gradients: &mut DeviceViewMut<'_>,
    rows: NormalizedRows<'_>,
    dy: DeviceView<'_>,
    dx: &mut DeviceViewMut<'_>,
    accumulate: Accumulate,
) {
    let NormalizedRows { x, moments } = rows;
    let width = scale.len() / 2;
    let device = dx.device();
    let row_count = x.len() / width;
    let (column_blocks, row_parts) = column_sum_blocks(row_count, width);

    KernelLaunch::for_dtype("layer_norm_weights", x.dtype())
        .with_grid(column_blocks, row_parts, 1)
        .arg_input(x)
        .arg_input(moments)
        .arg_input(dy)
        .arg_output(scale_gradients)
        .arg_u32(row_count)
        .arg_u32(width)
        .launch_on(device);

    KernelLaunch::for_dtype("layer_norm_backward", x.dtype())
        .with_grid(row_count.div_ceil(ROWS_PER_BLOCK), 1, 1)
        .arg_input(scale)
        .arg_input(x)
        .arg_input(moments)
        .arg_input(dy)
        .arg_output(dx)
        .arg_u32(row_count)
        .arg_u32(width)
        .arg_u32((accumulate == Accumulate::Yes).into())
        .launch_on(device);
}
