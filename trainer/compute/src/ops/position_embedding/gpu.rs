//! Position embeddings of image tokens on a device.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Threads of a block.
const BLOCK_THREADS: usize = 128;

/// A block for each token.
pub(super) fn forward(
    positions: DeviceView<'_>,
    class: DeviceView<'_>,
    visible: DeviceView<'_>,
    batch: usize,
    y: &mut DeviceViewMut<'_>,
) {
    let width = class.len();
    let visible_per_image = visible.len() / batch;
    let device = y.device();
    KernelLaunch::for_dtype("positions_forward", y.as_view().dtype())
        .with_threads(BLOCK_THREADS)
        .with_grid(batch * (1 + visible_per_image), 1, 1)
        .arg_input(positions)
        .arg_input(class)
        .arg_input(visible)
        .arg_output(y)
        .arg_u32(visible_per_image)
        .arg_u32(width)
        .launch_on(device);
}

/// A block for each position and 128 columns.
pub(super) fn backward(
    positions: &mut DeviceViewMut<'_>,
    class: &mut DeviceViewMut<'_>,
    visible: DeviceView<'_>,
    batch: usize,
    dy: DeviceView<'_>,
) {
    let width = class.len();
    let visible_per_image = visible.len() / batch;
    let device = class.device();
    KernelLaunch::for_dtype("positions_backward", dy.dtype())
        .with_threads(BLOCK_THREADS)
        .with_grid(positions.len() / width, width.div_ceil(BLOCK_THREADS), 1)
        .arg_output(positions)
        .arg_output(class)
        .arg_input(visible)
        .arg_input(dy)
        .arg_u32(batch)
        .arg_u32(visible_per_image)
        .arg_u32(width)
        .launch_on(device);
}
