//! The joint of a residual block's two branches on a device: eight elements for each thread.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Writes the gradient before the ReLU that gave `y`, twice.
pub(super) fn relu_backward_split(
    y: DeviceView<'_>,
    mut dy: DeviceViewMut<'_>,
    mut copy: DeviceViewMut<'_>,
) {
    KernelLaunch::for_dtype("branch_rectify", y.dtype())
        .with_thread_per_item(y.len().div_ceil(8))
        .arg_input(y)
        .arg_output(&mut dy)
        .arg_output(&mut copy)
        .arg_count(y.len())
        .launch_on(y.device());
}

/// `y += x`.
pub(super) fn add_residual(x: DeviceView<'_>, mut y: DeviceViewMut<'_>) {
    KernelLaunch::for_dtype("branch_add", x.dtype())
        .with_thread_per_item(x.len().div_ceil(8))
        .arg_input(x)
        .arg_output(&mut y)
        .arg_count(x.len())
        .launch_on(x.device());
}
