//! The tokens of pictures on a device: a thread for each channel of each picture.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Writes the tokens of each picture, and the first of each a second time.
pub(crate) fn forward(
    width: usize,
    positions: DeviceView<'_>,
    x: DeviceView<'_>,
    (mut tokens, mut means): (DeviceViewMut<'_>, DeviceViewMut<'_>),
) {
    let pictures = means.len() / width;
    let places = positions.len() / width - 1;
    let launch = KernelLaunch::for_dtype("mean_token_forward", x.dtype());
    let launch = launch
        .with_grid(width.div_ceil(256), pictures, 1)
        .arg_input(positions)
        .arg_input(x);

    let launch = launch
        .arg_output(&mut tokens)
        .arg_output(&mut means)
        .arg_u32(places)
        .arg_u32(width);

    launch.launch_on(x.device());
}

/// Writes `dx`, and adds the gradient of the means to that of the first tokens.
pub(crate) fn backward(
    width: usize,
    mut dtokens: DeviceViewMut<'_>,
    dmeans: DeviceView<'_>,
    mut dx: DeviceViewMut<'_>,
) {
    let pictures = dmeans.len() / width;
    let launch = KernelLaunch::for_dtype("mean_token_backward", dmeans.dtype());
    let launch = launch
        .with_grid(width.div_ceil(256), pictures, 1)
        .arg_output(&mut dtokens)
        .arg_input(dmeans);

    let launch = launch
        .arg_output(&mut dx)
        .arg_u32(dx.len() / dmeans.len())
        .arg_u32(width);

    launch.launch_on(dmeans.device());
}
