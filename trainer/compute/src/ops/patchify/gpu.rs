//! Pictures as the towers take them: normalised on the way in, from bytes or from numbers.

use crate::device::{DType, DeviceView, DeviceViewMut, KernelLaunch};

/// Writes the patches that are seen of each picture as rows behind one row of zeros.
///
/// # Shapes
/// `pixels` [batch, 3, side, side], bytes or normalised numbers; `seen` [batch, seen], `patches`
/// [batch, 1 + seen, 3 · patch²].
pub fn extract_patches(
    pixels: DeviceView<'_>,
    (side, patch): (usize, usize),
    seen: DeviceView<'_>,
    patches: &mut DeviceViewMut<'_>,
) {
    let device = patches.device();
    let batch = pixels.len() / (3 * side * side);
    let of_picture = seen.len() / batch;
    let launch = KernelLaunch::for_dtype(
        &kernel_name("cut_patches", pixels),
        patches.as_view().dtype(),
    );
    let launch = launch
        .with_grid(batch * (1 + of_picture), 1, 1)
        .arg_input(pixels)
        .arg_input(seen);

    launch
        .arg_output(patches)
        .arg_u32(of_picture)
        .arg_u32(side)
        .arg_u32(patch)
        .launch_on(device);
}

/// Writes each picture with its channels as neighbours: what a convolution takes.
///
/// # Shapes
/// `pixels` as in [`cut_patches`], `out` [batch, side, side, 3].
pub fn nchw_to_nhwc(pixels: DeviceView<'_>, side: usize, out: &mut DeviceViewMut<'_>) {
    let device = out.device();
    let points = pixels.len() / 3;
    let launch = KernelLaunch::for_dtype(&kernel_name("interleave", pixels), out.as_view().dtype())
        .with_thread_per_item(points);
    launch
        .arg_input(pixels)
        .arg_output(out)
        .arg_u32(points)
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
