//! Where two branches meet, on a device: a thread for eight numbers.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Writes the gradient before a rectifier that gave `y`, twice.
pub(crate) fn relu_backward_split(
    y: DeviceView<'_>,
    mut dy: DeviceViewMut<'_>,
    mut copy: DeviceViewMut<'_>,
) {
    let launch = KernelLaunch::for_dtype("branch_rectify", y.dtype())
        .with_thread_per_item(y.len().div_ceil(8))
        .arg_input(y);

    launch
        .arg_output(&mut dy)
        .arg_output(&mut copy)
        .arg_u32(y.len())
        .launch_on(y.device());
}

/// Adds `x` to `y`.
pub(crate) fn add_residual(x: DeviceView<'_>, mut y: DeviceViewMut<'_>) {
    let launch = KernelLaunch::for_dtype("branch_add", x.dtype())
        .with_thread_per_item(x.len().div_ceil(8))
        .arg_input(x)
        .arg_output(&mut y);

    launch.arg_u32(x.len()).launch_on(x.device());
}
