//! L2 normalization on a device. Features are fp32; `dx` has the number format of activations.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Rows that one block takes: a warp each.
const ROWS_PER_BLOCK: usize = 8;

/// `y = x / ‖x‖`, row by row.
///
/// # Shapes
/// `x`, `y` `[rows, width]`.
pub(super) fn forward(width: usize, x: DeviceView<'_>, y: &mut DeviceViewMut<'_>) {
    let rows = x.len() / width;
    let device = y.device();
    KernelLaunch::new("normalize_forward")
        .with_grid(rows.div_ceil(ROWS_PER_BLOCK), 1, 1)
        .arg_input(x)
        .arg_output(y)
        .arg_u32(rows)
        .arg_u32(width)
        .launch_on(device);
}

/// Writes `dx`.
///
/// # Shapes
/// `x`, `dy`, `dx` `[rows, width]`.
pub(super) fn backward(
    width: usize,
    x: DeviceView<'_>,
    dy: DeviceView<'_>,
    dx: &mut DeviceViewMut<'_>,
) {
    let rows = x.len() / width;
    let device = dx.device();
    KernelLaunch::for_dtype("normalize_backward", dx.as_view().dtype())
        .with_grid(rows.div_ceil(ROWS_PER_BLOCK), 1, 1)
        .arg_input(x)
        .arg_input(dy)
        .arg_output(dx)
        .arg_u32(rows)
        .arg_u32(width)
        .launch_on(device);
}
