//! The exponential moving average on a device: a thread for each weight.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

pub(super) fn update(averages: &mut DeviceViewMut<'_>, values: DeviceView<'_>, decay: f32) {
    let device = averages.device();
    let count = averages.len();
    KernelLaunch::new("average_add")
        .with_thread_per_item(count)
        .arg_output(averages)
        .arg_input(values)
        .arg_count(count)
        .arg_f32(1.0 - decay)
        .launch_on(device);
}

pub(super) fn swap(averages: &mut DeviceViewMut<'_>, values: &mut DeviceViewMut<'_>) {
    let device = averages.device();
    let count = averages.len();
    KernelLaunch::new("average_swap")
        .with_thread_per_item(count)
        .arg_output(averages)
        .arg_output(values)
        .arg_bf16_output(values)
        .arg_count(count)
        .launch_on(device);
}
