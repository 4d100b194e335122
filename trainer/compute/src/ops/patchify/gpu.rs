//! Patches and channels-last images on a device, from bytes or from normalized numbers.

use crate::device::{DType, DeviceView, DeviceViewMut, KernelLaunch};

/// A block for each row of `patches`.
pub(super) fn extract_patches(
    pixels: DeviceView<'_>,
    side: usize,
    patch: usize,
    visible: DeviceView<'_>,
    patches: &mut DeviceViewMut<'_>,
) {
    let device = patches.device();
    let batch = pixels.len() / (3 * side * side);
    let visible_per_image = visible.len() / batch;
    let name = kernel_name("cut_patches", pixels);

    KernelLaunch::for_dtype(&name, patches.as_view().dtype())
        .with_grid(batch * (1 + visible_per_image), 1, 1)
        .arg_input(pixels)
        .arg_input(visible)
        .arg_output(patches)
        .arg_u32(visible_per_image)
        .arg_u32(side)
        .arg_u32(patch)
        .launch_on(device);
}

/// A thread for each pixel, which writes its three channels.
pub(super) fn nchw_to_nhwc(pixels: DeviceView<'_>, side: usize, out: &mut DeviceViewMut<'_>) {
    let device = out.device();
    let count = pixels.len() / 3;
    let name = kernel_name("interleave", pixels);

    KernelLaunch::for_dtype(&name, out.as_view().dtype())
        .with_thread_per_item(count)
        .arg_input(pixels)
        .arg_output(out)
        .arg_count(count)
        .arg_u32(side)
        .launch_on(device);
}

fn kernel_name(name: &str, pixels: DeviceView<'_>) -> String {
    let source = if pixels.dtype() == DType::U8 {
        "bytes"
    } else {
        "numbers"
    };

    format!("{name}_{source}")
}
