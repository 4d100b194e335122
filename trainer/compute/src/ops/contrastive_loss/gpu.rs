//! Rows of logits: what is to know of each, and their gradients.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Which pairs are right for each other: those with the same number for a picture or for a caption.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTargets<'a> {
    /// A number for the picture of each pair.
    pub images: DeviceView<'a>,
    /// A number for its caption.
    pub texts: DeviceView<'a>,
    /// What each pair that is right for a pair is worth to it.
    pub target_weights: DeviceView<'a>,
}

/// Numbers that [`row_statistics`] finds of each row.
pub const STATISTICS_PER_ROW: usize = 3;

/// Finds of each row, of which the first is that of pair `first`: ln Σ eˣ, the mean of what is right, and
/// whether the nearest is right.
///
/// # Shapes
/// `logits` [rows, pairs], `found` [rows, 3].
pub fn row_statistics(
    logits: DeviceView<'_>,
    (first, pairs): (usize, usize),
    targets: DeviceTargets<'_>,
    found: &mut DeviceViewMut<'_>,
) {
    let rows = logits.len() / pairs;
    let device = found.device();
    let launch = KernelLaunch::new("loss_rows")
        .with_grid(rows, 1, 1)
        .arg_input(logits);
    let launch = launch
        .arg_input(targets.images)
        .arg_input(targets.texts)
        .arg_input(targets.target_weights);

    launch
        .arg_output(found)
        .arg_u32(first)
        .arg_u32(pairs)
        .launch_on(device);
}

/// Logits become their gradients, given ln Σ eˣ of all rows and of all columns; each row's part of the
/// gradient of the logit scale is written to `slopes`.
///
/// # Shapes
/// `logits` `[rows, pairs]`, both sums `[pairs]`, `slopes` `[rows]`.
pub fn logits_to_gradients(
    logits: &mut DeviceViewMut<'_>,
    (first, pairs): (usize, usize),
    (of_rows, of_columns): (DeviceView<'_>, DeviceView<'_>),
    targets: DeviceTargets<'_>,
    slopes: &mut DeviceViewMut<'_>,
) {
    let rows = logits.len() / pairs;
    let device = logits.device();
    let launch = KernelLaunch::new("loss_differentiate")
        .with_grid(rows, 1, 1)
        .arg_output(logits);

    let launch = launch.arg_input(of_rows).arg_input(of_columns);
    let launch = launch
        .arg_input(targets.images)
        .arg_input(targets.texts)
        .arg_input(targets.target_weights);

    let launch = launch
        .arg_output(slopes)
        .arg_u32(first)
        .arg_u32(pairs)
        // Half for each direction, and the mean over the global batch.
        .arg_f32(0.5 / pairs as f32);

    launch.launch_on(device);
}
