//! AdamW over a table of chunks, of which none holds numbers of two segments.

use crate::device::{Launch, Span, SpanMut};

/// Numbers of the table for each chunk: where it begins, how long it is, whether its weights decay.
pub const CHUNK: usize = 3;

/// What all weights share in a step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
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
pub fn squares(gradients: Span<'_>, chunks: Span<'_>, sums: &mut SpanMut<'_>) {
    let launch = Launch::new("optimizer_squares").grid(sums.len(), 1, 1);
    launch
        .read(gradients)
        .read(chunks)
        .write(sums)
        .run(sums.device());
}

/// Changes the weights of all chunks, and both moments.
pub fn step(
    values: &mut SpanMut<'_>,
    (first, second): (&mut SpanMut<'_>, &mut SpanMut<'_>),
    gradients: Span<'_>,
    chunks: Span<'_>,
    step: Step,
) {
    let device = values.device();
    let launch = Launch::new("optimizer_step").grid(chunks.len() / CHUNK, 1, 1);
    let launch = launch
        .write(values)
        .write_rounded(values)
        .write(first)
        .write(second);

    let launch = launch.read(gradients).read(chunks);
    let launch = launch
        .real(step.beta_1)
        .real(step.beta_2)
        .real(step.epsilon)
        .real(step.clip);

    let launch = launch.real(step.rate).real(step.correction);
    launch.real(step.keep).real(step.keep_decayed).run(device);
}

/// Adds a number to each.
pub fn add(values: &mut SpanMut<'_>, number: f32) {
    let device = values.device();
    let count = values.len();
    Launch::new("optimizer_add")
        .over(count)
        .write(values)
        .whole(count)
        .real(number)
        .run(device);
}

/// Keeps each in bounds.
pub fn clamp(values: &mut SpanMut<'_>, (low, high): (f32, f32)) {
    let device = values.device();
    let count = values.len();
    let launch = Launch::new("optimizer_clamp")
        .over(count)
        .write(values)
        .write_rounded(values);

    launch.whole(count).real(low).real(high).run(device);
}
