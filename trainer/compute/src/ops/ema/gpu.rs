//! A running average of the weights.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Moves each average by a share of the way to its value.
pub fn ema_update(averages: &mut DeviceViewMut<'_>, values: DeviceView<'_>, share: f32) {
    let device = averages.device();
    let count = averages.len();
    let launch = KernelLaunch::new("average_add")
        .with_thread_per_item(count)
        .arg_output(averages)
        .arg_input(values);

    launch.arg_u32(count).arg_f32(share).launch_on(device);
}

/// Exchanges the numbers of both; those that the weights take are rounded, too.
pub fn swap_values(averages: &mut DeviceViewMut<'_>, values: &mut DeviceViewMut<'_>) {
    let device = averages.device();
    let count = averages.len();
    let launch = KernelLaunch::new("average_swap")
        .with_thread_per_item(count)
        .arg_output(averages)
        .arg_output(values);

    launch
        .arg_bf16_output(values)
        .arg_u32(count)
        .launch_on(device);
}
