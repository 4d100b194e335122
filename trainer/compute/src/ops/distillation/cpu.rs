//! The cosines on the CPU, in parallel over rows.

use rayon::prelude::*;

use super::COSINE_EPSILON;
use super::interpolation::LinearInterpolation;
use crate::math::dot_product;

/// What the host computes on, row by row.
pub(super) struct HostRows<'a> {
    pub(super) teacher_features: &'a [f32],
    pub(super) features: &'a [f32],
    pub(super) gradients: &'a mut [f32],
    pub(super) interpolated: &'a mut [f32],
    pub(super) cosines: &'a mut [f32],
}

/// The cosine of each pair of rows; adds the gradient of `−scale · cosine` to that of the features.
pub(super) fn cosines_with_gradients(
    interpolation: &LinearInterpolation,
    rows: HostRows<'_>,
    scale: f32,
) {
    let width = interpolation.width;
    let output_width = interpolation.taps.len();
    let teacher_rows = rows.teacher_features.par_chunks(output_width);
    let interpolated_rows = rows.interpolated.par_chunks_mut(output_width);
    let feature_rows = rows.features.par_chunks(width);
    let gradient_rows = rows.gradients.par_chunks_mut(width);

    rows.cosines
        .par_iter_mut()
        .zip(teacher_rows.zip(interpolated_rows))
        .zip(feature_rows.zip(gradient_rows))
        .for_each(
            |((cosine, (teacher, interpolated)), (features, gradients))| {
                interpolation.forward(features, interpolated);
                *cosine = cosine_with_gradient(teacher, interpolated, scale);
                interpolation.backward(interpolated, gradients);
            },
        );
}

/// The cosine of two vectors; the student's becomes the gradient of `−scale · cosine`.
fn cosine_with_gradient(teacher: &[f32], student: &mut [f32], scale: f32) -> f32 {
    let inverse_norm = |x: &[f32]| 1.0 / dot_product(x, x).sqrt().max(COSINE_EPSILON);
    let teacher_inverse = inverse_norm(teacher);
    let student_inverse = inverse_norm(student);
    let cosine = dot_product(teacher, student) * teacher_inverse * student_inverse;

    // ∂cosine / ∂student = (teacher / |teacher| − cosine · student / |student|) / |student|, in place: a row is
    // not needed any more once its gradient is known.
    for (student, teacher) in student.iter_mut().zip(teacher) {
        *student = scale
            * student_inverse
            * (cosine * student_inverse * *student - teacher_inverse * teacher);
    }

    cosine
}
