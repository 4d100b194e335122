//! Pulls the features of pictures toward a teacher's, and its gradient. Knows neither captions nor
//! weights.

mod interpolation_buffers;

use interpolation_buffers::InterpolationBuffers;
use rayon::prelude::*;

use crate::model::teacher::Teacher;
use cnclip_compute::collective::Collective;
use cnclip_compute::math::dot_product;
use cnclip_compute::ops::distillation::gpu as ops;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// PyTorch's bound below lengths that are divided by.
const COSINE_EPSILON: f32 = 1e-8;

/// A teacher, and how far the features of a batch are from its own.
#[derive(Debug)]
pub struct Distillation {
    teacher: Teacher,
    teacher_features: Tensor,
    loss: CosineLoss,
}

impl Distillation {
    /// Memory for batches of so many features of a width.
    pub fn new(teacher: Teacher, weight: f64, (batch, width): (usize, usize)) -> Self {
        let memory = teacher.params.memory();
        let taught = memory.alloc_f32(batch * teacher.feature_width());
        let loss = CosineLoss::new(memory, weight, batch, (width, teacher.feature_width()));
        Self {
            teacher_features: taught,
            teacher,
            loss,
        }
    }

    /// What the distance is multiplied with before it is added to the loss.
    pub fn loss_weight(&self) -> f64 {
        self.loss.weight
    }

    /// The distance of a batch that ranks share equally, before it is weighted; adds the weighted
    /// gradient to that of this rank's features.
    ///
    /// # Shapes
    /// `features`, `gradients` [batch, width].
    pub fn compute_loss(
        &mut self,
        pixels: PixelBatch<'_>,
        (features, gradients): (TensorView<'_>, TensorViewMut<'_>),
        ranks: &dyn Collective,
    ) -> f64 {
        let batch = features.len() / self.loss.interpolation.width;
        let size = batch * self.teacher.feature_width();
        self.teacher
            .encode_images(pixels, self.teacher_features.first_n_mut(size));
        self.loss.compute_loss(
            self.teacher_features.first_n(size),
            (features, gradients),
            ranks,
        )
    }
}

/// `weight · (1 − mean cosine)` of a teacher's features and one's own, which are stretched to the
/// teacher's width where that is another.
///
/// # Source
/// The reference's `--distillation`: `F.interpolate(mode="bilinear", align_corners=False)` along the
/// features, then `F.cosine_similarity`.
#[derive(Debug)]
pub struct CosineLoss {
    weight: f64,
    interpolation: LinearInterpolation,
    /// One's own features as wide as the teacher's, in this machine's memory.
    interpolated: Vec<f32>,
    cosines: Tensor,
    /// How vectors are stretched, in a device's memory.
    device_buffers: Option<InterpolationBuffers>,
}

impl CosineLoss {
    /// Memory for so many features of a width, and for those of a teacher.
    pub fn new(memory: &Memory, weight: f64, batch: usize, (width, wide): (usize, usize)) -> Self {
        let stretch = LinearInterpolation::new(width, wide);
        let held = InterpolationBuffers::new(memory, &stretch);
        let stretched = if held.is_none() {
            vec![0.0; batch * wide]
        } else {
            Vec::new()
        };

        Self {
            weight,
            interpolation: stretch,
            interpolated: stretched,
            cosines: memory.alloc_f32(batch),
            device_buffers: held,
        }
    }

    /// The distance of a batch that ranks share equally, before it is weighted; adds the weighted
    /// gradient to that of this rank's features.
    ///
    /// # Shapes
    /// `taught` [batch, teacher's width], `features`, `gradients` [batch, width].
    pub fn compute_loss(
        &mut self,
        taught: TensorView<'_>,
        (features, gradients): (TensorView<'_>, TensorViewMut<'_>),
        ranks: &dyn Collective,
    ) -> f64 {
        let batch = features.len() / self.interpolation.width;
        let global_batch = (batch * ranks.world_size()) as f64;
        let scale = (self.weight / global_batch) as f32;
        let held = self.device_buffers.as_ref();
        let stretch = &self.interpolation;

        match (self.cosines.first_n_mut(batch), gradients, held) {
            (
                TensorViewMut::Device(mut cosines),
                TensorViewMut::Device(mut gradients),
                Some(held),
            ) => {
                let own = (features.expect_device(), &mut gradients);
                let bounds = (scale, COSINE_EPSILON);
                ops::cosine_similarity_grad(
                    held.as_device_op(),
                    taught.expect_device(),
                    own,
                    &mut cosines,
                    bounds,
                );
            }
            (cosines, gradients, _) => {
                let own = (features.expect_host(), gradients.expect_host());
                stretch.cosines_with_gradients(
                    taught.expect_host(),
                    own,
                    (cosines.expect_host(), &mut self.interpolated),
                    scale,
                );
            }
        }

        let mut sum = [self
            .cosines
            .first_n(batch)
            .to_host()
            .iter()
            .map(|&cosine| f64::from(cosine))
            .sum()];

        ranks.all_reduce_sum_f64(&mut sum);
        1.0 - sum[0] / global_batch
    }
}

/// The cosine of two vectors; the second becomes the gradient of `−scale · cosine`.
fn cosine_with_gradient(taught: &[f32], own: &mut [f32], scale: f32) -> f32 {
    let inverse = |x: &[f32]| 1.0 / dot_product(x, x).sqrt().max(COSINE_EPSILON);
    let taught_inverse = inverse(taught);
    let own_inverse = inverse(own);
    let cosine = dot_product(taught, own) * taught_inverse * own_inverse;

    for (own, taught) in own.iter_mut().zip(taught) {
        *own = scale * own_inverse * (cosine * own_inverse * *own - taught_inverse * taught);
    }

    cosine
}

/// Linear interpolation of a vector to another width.
#[derive(Debug)]
struct LinearInterpolation {
    width: usize,
    /// For each place the two neighbours it lies between, and the share of the second.
    taps: Vec<(usize, usize, f32)>,
}

impl LinearInterpolation {
    fn new(width: usize, wide: usize) -> Self {
        let place = |at: usize| {
            let from = (at as f64 + 0.5) * width as f64 / wide as f64 - 0.5;
            let first = from.max(0.0) as usize;
            (
                first,
                (first + 1).min(width - 1),
                (from.max(0.0) - first as f64) as f32,
            )
        };

        Self {
            width,
            taps: (0..wide).map(place).collect(),
        }
    }

    /// The cosine of each pair of rows; adds the gradient of `−scale · cosine` to that of the features.
    fn cosines_with_gradients(
        &self,
        taught: &[f32],
        (features, gradients): (&[f32], &mut [f32]),
        (cosines, stretched): (&mut [f32], &mut [f32]),
        scale: f32,
    ) {
        let width = self.width;
        let wide = self.taps.len();
        let rows = taught.par_chunks(wide).zip(stretched.par_chunks_mut(wide));
        let own = features
            .par_chunks(width)
            .zip(gradients.par_chunks_mut(width));

        let cosines = cosines.par_iter_mut();
        cosines
            .zip(rows)
            .zip(own)
            .for_each(|((cosine, (taught, row)), (own, gradient))| {
                self.forward(own, row);
                *cosine = cosine_with_gradient(taught, row, scale);
                self.backward(row, gradient);
            });
    }

    fn forward(&self, from: &[f32], to: &mut [f32]) {
        for (to, &(first, second, share)) in to.iter_mut().zip(&self.taps) {
            *to = (1.0 - share) * from[first] + share * from[second];
        }
    }

    /// Adds to the gradient of what was stretched.
    fn backward(&self, dto: &[f32], dfrom: &mut [f32]) {
        for (dto, &(first, second, share)) in dto.iter().zip(&self.taps) {
            dfrom[first] += (1.0 - share) * dto;
            dfrom[second] += share * dto;
        }
    }
}

#[cfg(test)]
mod tests;
