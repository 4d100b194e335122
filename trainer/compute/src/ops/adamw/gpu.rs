//! AdamW over a table of chunks, of which none holds numbers of two segments.

use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};

/// Numbers of the table for each chunk: where it begins, how long it is, whether its weights decay.
pub const CHUNK_FIELDS: usize = 3;

/// What all weights share in a step.
#[derive(Clone, Copy, Debug)]
pub struct AdamWConstants {
    /// How much of the mean gradient is kept.
    pub beta_1: f32,
    /// How much of the mean squared gradient is kept.
    pub beta_2: f32,
    /// Added to the root of the latter.
    pub epsilon: f32,
    /// What a gradient is multiplied with first.
    pub clip: f32,
    /// The learning rate, corrected for the first moment's start.
    pub rate: f32,
    /// One over the root of the second moment's correction.
    pub correction: f32,
    /// What a weight is multiplied with.
    pub keep: f32,
    /// The same for one that decays.
    pub keep_decayed: f32,
}

/// The sum of squares of each chunk.
///
/// # Shapes
/// `chunks` [chunks, 3], `sums` [chunks].
pub fn chunk_sums_of_squares(
    gradients: DeviceView<'_>,
    chunks: DeviceView<'_>,
    sums: &mut DeviceViewMut<'_>,
) {
    let launch = KernelLaunch::new("optimizer_squares").with_grid(sums.len(), 1, 1);
    launch
        .arg_input(gradients)
        .arg_input(chunks)
        .arg_output(sums)
        .launch_on(sums.device());
}

/// Changes the weights of all chunks, and both moments.
pub fn adamw_step(
    values: &mut DeviceViewMut<'_>,
    (first, second): (&mut DeviceViewMut<'_>, &mut DeviceViewMut<'_>),
    gradients: DeviceView<'_>,
    chunks: DeviceView<'_>,
    step: AdamWConstants,
) {
    let device = values.device();
    let launch = KernelLaunch::new("optimizer_step").with_grid(chunks.len() / CHUNK_FIELDS, 1, 1);
    let launch = launch
        .arg_output(values)
        .arg_bf16_output(values)
        .arg_output(first)
        .arg_output(second);

    let launch = launch.arg_input(gradients).arg_input(chunks);
    let launch = launch
        .arg_f32(step.beta_1)
        .arg_f32(step.beta_2)
        .arg_f32(step.epsilon)
        .arg_f32(step.clip);

    let launch = launch.arg_f32(step.rate).arg_f32(step.correction);
    launch
        .arg_f32(step.keep)
        .arg_f32(step.keep_decayed)
        .launch_on(device);
}

/// Adds a number to each.
pub fn add_scalar(values: &mut DeviceViewMut<'_>, number: f32) {
    let device = values.device();
    let count = values.len();
    KernelLaunch::new("optimizer_add")
        .with_thread_per_item(count)
        .arg_output(values)
        .arg_u32(count)
        .arg_f32(number)
        .launch_on(device);
}

/// Keeps each in bounds.
pub fn clamp_values(values: &mut DeviceViewMut<'_>, (low, high): (f32, f32)) {
    let device = values.device();
    let count = values.len();
    let launch = KernelLaunch::new("optimizer_clamp")
        .with_thread_per_item(count)
        .arg_output(values)
        .arg_bf16_output(values);

    launch
        .arg_u32(count)
        .arg_f32(low)
        .arg_f32(high)
        .launch_on(device);
}
