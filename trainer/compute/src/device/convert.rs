//! Copies between number formats.

use super::{DeviceView, DeviceViewMut, KernelLaunch};

/// Copies numbers to another format, and to the bfloat16 copy of the target if it has one.
pub(super) fn convert_dtype(from: DeviceView<'_>, mut to: DeviceViewMut<'_>) {
    let device = to.device();
    let len = to.len();
    // As `convert.cu` names its kernels: the source's format, then the target's.
    let names =
        [from.dtype(), to.as_view().dtype()].map(|dtype| format!("{dtype:?}").to_lowercase());
    // A thread for eight numbers: `OCTET` of `common.cuh`.
    let launch = KernelLaunch::new(&format!("convert_{}_{}", names[0], names[1]))
        .with_thread_per_item(len.div_ceil(8));

    launch
        .arg_input(from)
        .arg_output(&mut to)
        .arg_bf16_output(&mut to)
        .arg_count(len)
        .launch_on(device);
}
