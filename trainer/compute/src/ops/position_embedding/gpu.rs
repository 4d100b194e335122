//! Where the tokens of a picture lie in it: the class token, then the patches that are seen.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Writes the row of each token's place, and adds the class embedding to each picture's first.
///
/// # Shapes
/// `positions` [1 + patches, width], `class` [width], `seen` [batch, seen], `y` [batch, 1 + seen, width].
pub fn forward(
    (positions, class): (DeviceView<'_>, DeviceView<'_>),
    seen: DeviceView<'_>,
    batch: usize,
    y: &mut DeviceViewMut<'_>,
) {
    let width = class.len();
    let of_picture = seen.len() / batch;
    let device = y.device();
    let launch =
        KernelLaunch::for_dtype("positions_forward", y.as_view().dtype()).with_threads(128);
    let launch = launch
        .with_grid(batch * (1 + of_picture), 1, 1)
        .arg_input(positions)
        .arg_input(class);

    launch
        .arg_input(seen)
        .arg_output(y)
        .arg_u32(of_picture)
        .arg_u32(width)
        .launch_on(device);
}

/// Adds rows of `dy` to the rows of their places, and those of class tokens to `class`.
///
/// # Shapes
/// As in [`forward`]; patches are seen in rising order.
pub fn backward(
    (positions, class): (&mut DeviceViewMut<'_>, &mut DeviceViewMut<'_>),
    seen: DeviceView<'_>,
    batch: usize,
    dy: DeviceView<'_>,
) {
    let width = class.len();
    let of_picture = seen.len() / batch;
    let device = class.device();
    let launch = KernelLaunch::for_dtype("positions_backward", dy.dtype()).with_threads(128);
    let launch = launch.with_grid(positions.len() / width, width.div_ceil(128), 1);
    let launch = launch
        .arg_output(positions)
        .arg_output(class)
        .arg_input(seen)
        .arg_input(dy);

    launch
        .arg_u32(batch)
        .arg_u32(of_picture)
        .arg_u32(width)
        .launch_on(device);
}
