//! The launch of the kernel.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// How a vector is interpolated: each output lies between two neighbours.
#[derive(Clone, Copy)]
pub(super) struct DeviceInterpolation<'a> {
    /// The left neighbour of each output.
    pub(super) left_neighbors: DeviceView<'a>,
    /// The first output whose left neighbour is at least this; one more than there are neighbours.
    pub(super) neighbor_starts: DeviceView<'a>,
    /// The right neighbour's share of each output.
    pub(super) right_weights: DeviceView<'a>,
}

/// What the kernel reads and writes, row by row.
pub(super) struct DeviceRows<'a> {
    pub(super) teacher_features: DeviceView<'a>,
    pub(super) features: DeviceView<'a>,
    pub(super) gradients: DeviceViewMut<'a>,
    pub(super) cosines: DeviceViewMut<'a>,
}

/// The cosine of each pair of rows; adds the gradient of `−scale · cosine` to that of the features.
pub(super) fn cosines_with_gradients(
    interpolation: DeviceInterpolation<'_>,
    rows: DeviceRows<'_>,
    scale: f32,
    epsilon: f32,
) {
    let DeviceRows {
        teacher_features,
        features,
        mut gradients,
        mut cosines,
    } = rows;

    let device = cosines.device();
    let width = interpolation.neighbor_starts.len() - 1;
    let output_width = interpolation.left_neighbors.len();
    KernelLaunch::new("distillation")
        .with_grid(cosines.len(), 1, 1)
        .arg_input(teacher_features)
        .arg_input(features)
        .arg_output(&mut gradients)
        .arg_output(&mut cosines)
        .arg_input(interpolation.left_neighbors)
        .arg_input(interpolation.neighbor_starts)
        .arg_input(interpolation.right_weights)
        .arg_u32(width)
        .arg_u32(output_width)
        .arg_f32(scale)
        .arg_f32(epsilon)
        .launch_on(device);
}
