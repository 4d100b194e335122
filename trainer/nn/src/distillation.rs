//! Knowledge distillation: pulls the features of images toward a teacher's. Knows neither texts nor weights.

mod interpolation_buffers;

use cnclip_compute::collective::Collective;
use cnclip_compute::math::dot_product;
use cnclip_compute::ops::distillation::gpu as ops;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};
use rayon::prelude::*;

use crate::model::FeaturesAndGradients;
use crate::model::teacher::Teacher;
use interpolation_buffers::InterpolationBuffers;

/// PyTorch's lower bound of vector lengths in `cosine_similarity`: a feature of zeros divides by it.
const COSINE_EPSILON: f32 = 1e-8;

/// A teacher, and the distance of a batch's features from its own.
#[derive(Debug)]
pub struct Distillation {
    teacher: Teacher,
    teacher_features: Tensor,
    loss: CosineLoss,
}

impl Distillation {
    /// Memory for batches of features of a width.
    pub fn new(teacher: Teacher, weight: f64, batch: usize, width: usize) -> Self {
        let teacher_width = teacher.feature_width();
        let memory = teacher.params.memory();
        let teacher_features = memory.alloc_f32(batch * teacher_width);
        let loss = CosineLoss::new(memory, weight, batch, width, teacher_width);
        Self {
            teacher,
            teacher_features,
            loss,
        }
    }

    /// What the distance is multiplied with before it is added to the loss.
    pub fn loss_weight(&self) -> f64 {
        self.loss.weight
    }

    /// The distance of a batch that ranks share equally, before it is weighted; adds the weighted
    /// gradient to that of this rank's features.
    pub fn compute_loss(
        &mut self,
        pixels: PixelBatch<'_>,
        student: FeaturesAndGradients<'_>,
        ranks: &dyn Collective,
    ) -> f64 {
        let batch = student.features.len() / self.loss.interpolation.width;
        let teacher_len = batch * self.teacher.feature_width();
        self.teacher
            .encode_images(pixels, self.teacher_features.first_n_mut(teacher_len));

        let teacher_features = self.teacher_features.first_n(teacher_len);
        self.loss.compute_loss(teacher_features, student, ranks)
    }
}

/// `weight · (1 − mean cosine)` of a teacher's features and the student's, which are interpolated to the
/// teacher's width where that is another.
///
/// # Source
/// The reference's `--distillation`: `F.interpolate(mode="bilinear", align_corners=False)` along the
/// features, then `F.cosine_similarity`.
#[derive(Debug)]
pub struct CosineLoss {
    weight: f64,
    interpolation: LinearInterpolation,
    /// The student's features as wide as the teacher's, in host memory.
    interpolated: Vec<f32>,
    cosines: Tensor,
    /// The interpolation's taps, on a device.
    device_buffers: Option<InterpolationBuffers>,
}

impl CosineLoss {
    /// Memory for a batch of the student's features, and of the teacher's.
    pub fn new(
        memory: &Memory,
        weight: f64,
        batch: usize,
        width: usize,
        teacher_width: usize,
    ) -> Self {
        let interpolation = LinearInterpolation::new(width, teacher_width);
        let device_buffers = InterpolationBuffers::new(memory, &interpolation);
        // A device interpolates as it reads.
        let interpolated = if device_buffers.is_none() {
            vec![0.0; batch * teacher_width]
        } else {
            Vec::new()
        };

        Self {
            weight,
            interpolation,
            interpolated,
            cosines: memory.alloc_f32(batch),
            device_buffers,
        }
    }

    /// The distance of a batch that ranks share equally, before it is weighted; adds the weighted
    /// gradient to that of this rank's features.
    ///
    /// # Shapes
    /// `teacher_features` [batch, teacher's width], the student's [batch, width].
    pub fn compute_loss(
        &mut self,
        teacher_features: TensorView<'_>,
        student: FeaturesAndGradients<'_>,
        ranks: &dyn Collective,
    ) -> f64 {
        let FeaturesAndGradients {
            features,
            gradients,
        } = student;

        let batch = features.len() / self.interpolation.width;
        // The mean is over the global batch, so gradients of ranks add up like those of the loss.
        let global_batch = (batch * ranks.world_size()) as f64;
        let scale = (self.weight / global_batch) as f32;
        let cosines = self.cosines.first_n_mut(batch);

        match (cosines, gradients, &self.device_buffers) {
            (
                TensorViewMut::Device(mut cosines),
                TensorViewMut::Device(mut gradients),
                Some(buffers),
            ) => ops::cosine_similarity_grad(
                buffers.as_device_op(),
                teacher_features.expect_device(),
                (features.expect_device(), &mut gradients),
                &mut cosines,
                (scale, COSINE_EPSILON),
            ),
            (cosines, gradients, _) => {
                let rows = HostRows {
                    teacher_features: teacher_features.expect_host(),
                    features: features.expect_host(),
                    gradients: gradients.expect_host(),
                    interpolated: &mut self.interpolated,
                    cosines: cosines.expect_host(),
                };

                self.interpolation.cosines_with_gradients(rows, scale);
            }
        }

        1.0 - self.sum_cosines(batch, ranks) / global_batch
    }

    /// In fp64 and one after the other: the same sum for any number of threads.
    fn sum_cosines(&self, batch: usize, ranks: &dyn Collective) -> f64 {
        let cosines = self.cosines.first_n(batch).to_host();
        let mut sum = [cosines.iter().map(|&cosine| f64::from(cosine)).sum()];
        ranks.all_reduce_sum_f64(&mut sum);
        sum[0]
    }
}

/// What the host computes on, row by row.
struct HostRows<'a> {
    teacher_features: &'a [f32],
    features: &'a [f32],
    gradients: &'a mut [f32],
    interpolated: &'a mut [f32],
    cosines: &'a mut [f32],
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

/// Linear interpolation of a vector to another width.
#[derive(Debug)]
struct LinearInterpolation {
    width: usize,
    /// For each output the two inputs that it lies between.
    taps: Vec<InterpolationTap>,
}

/// The two neighbours of an output.
#[derive(Clone, Copy, Debug)]
struct InterpolationTap {
    left: usize,
    right: usize,
    right_weight: f32,
}

impl LinearInterpolation {
    fn new(width: usize, output_width: usize) -> Self {
        let tap = |output: usize| {
            // Half-pixel centres: what `align_corners=False` means. Outputs before the first input's centre, or
            // behind the last one's, repeat that input.
            let position = (output as f64 + 0.5) * width as f64 / output_width as f64 - 0.5;
            let left = position.max(0.0) as usize;
            InterpolationTap {
                left,
                right: (left + 1).min(width - 1),
                right_weight: (position.max(0.0) - left as f64) as f32,
            }
        };

        Self {
            width,
            taps: (0..output_width).map(tap).collect(),
        }
    }

    /// The cosine of each pair of rows; adds the gradient of `−scale · cosine` to that of the features.
    fn cosines_with_gradients(&self, rows: HostRows<'_>, scale: f32) {
        let width = self.width;
        let output_width = self.taps.len();
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
                    self.forward(features, interpolated);
                    *cosine = cosine_with_gradient(teacher, interpolated, scale);
                    self.backward(interpolated, gradients);
                },
            );
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) {
        for (y, tap) in y.iter_mut().zip(&self.taps) {
            let weight = tap.right_weight;
            *y = (1.0 - weight) * x[tap.left] + weight * x[tap.right];
        }
    }

    /// Adds to the gradient of `x`.
    fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        for (dy, tap) in dy.iter().zip(&self.taps) {
            let weight = tap.right_weight;
            dx[tap.left] += (1.0 - weight) * dy;
            dx[tap.right] += weight * dy;
        }
    }
}

#[cfg(test)]
mod tests;
