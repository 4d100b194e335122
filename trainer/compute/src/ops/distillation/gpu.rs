//! The cosines of a teacher's features and one's own.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// How a vector is stretched: each place lies between two neighbours.
#[derive(Clone, Copy, Debug)]
pub struct LinearResize<'a> {
    /// The left neighbour of each place.
    pub left_neighbors: DeviceView<'a>,
    /// The first place whose left neighbour is at least this; one more than there are neighbours.
    pub neighbor_starts: DeviceView<'a>,
    /// The right neighbour's share of each place.
    pub right_weights: DeviceView<'a>,
}

/// The cosine of each pair of rows; adds the gradient of `−scale · cosine` to that of the features.
///
/// # Shapes
/// `taught` `[rows, wide]`, `features` and `gradients` `[rows, width]`, `cosines` `[rows]`.
pub fn cosine_similarity_grad(
    stretch: LinearResize<'_>,
    taught: DeviceView<'_>,
    (features, gradients): (DeviceView<'_>, &mut DeviceViewMut<'_>),
    cosines: &mut DeviceViewMut<'_>,
    (scale, shortest): (f32, f32),
) {
    let rows = cosines.len();
    let device = cosines.device();
    let width = stretch.neighbor_starts.len() - 1;
    let wide = stretch.left_neighbors.len();
    let launch = KernelLaunch::new("distillation")
        .with_grid(rows, 1, 1)
        .arg_input(taught)
        .arg_input(features);

    let launch = launch.arg_output(gradients).arg_output(cosines);
    let launch = launch
        .arg_input(stretch.left_neighbors)
        .arg_input(stretch.neighbor_starts)
        .arg_input(stretch.right_weights);

    launch
        .arg_u32(width)
        .arg_u32(wide)
        .arg_f32(scale)
        .arg_f32(shortest)
        .launch_on(device);
}
