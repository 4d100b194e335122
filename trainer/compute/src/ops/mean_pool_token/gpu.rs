//! Image tokens with their mean in front on a device: a thread for each channel of each image.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Threads of a block, one a channel.
const CHANNELS_PER_BLOCK: usize = 256;

/// Writes the tokens of each image, and the first of each a second time.
pub(super) fn forward(
    width: usize,
    positions: DeviceView<'_>,
    x: DeviceView<'_>,
    mut tokens: DeviceViewMut<'_>,
    mut means: DeviceViewMut<'_>,
) {
    let images = means.len() / width;
    let pixels = positions.len() / width - 1;
    KernelLaunch::for_dtype("mean_token_forward", x.dtype())
        .with_grid(width.div_ceil(CHANNELS_PER_BLOCK), images, 1)
        .arg_input(positions)
        .arg_input(x)
        .arg_output(&mut tokens)
        .arg_output(&mut means)
        .arg_u32(pixels)
        .arg_u32(width)
        .launch_on(x.device());
}

/// Writes `dx`, and adds the gradient of the means to that of the first tokens.
pub(super) fn backward(
    width: usize,
    mut dtokens: DeviceViewMut<'_>,
    dmeans: DeviceView<'_>,
    mut dx: DeviceViewMut<'_>,
) {
    let images = dmeans.len() / width;
    let pixels = dx.len() / dmeans.len();
    KernelLaunch::for_dtype("mean_token_backward", dmeans.dtype())
        .with_grid(width.div_ceil(CHANNELS_PER_BLOCK), images, 1)
        .arg_output(&mut dtokens)
        .arg_input(dmeans)
        .arg_output(&mut dx)
        .arg_u32(pixels)
        .arg_u32(width)
        .launch_on(dmeans.device());
}
