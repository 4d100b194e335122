//! Pulls the features of pictures toward a teacher's, and its gradient. Knows neither captions nor
//! weights.

mod held;

use held::Held;
use rayon::prelude::*;

use crate::model::teacher::Teacher;
use cnclip_compute::collective::Ranks;
use cnclip_compute::math::dot;
use cnclip_compute::ops::distillation::gpu as ops;
use cnclip_compute::ops::patchify::Pixels;
use cnclip_compute::tensor::{Array, Memory, View, ViewMut};

/// PyTorch's bound below lengths that are divided by.
const SHORTEST: f32 = 1e-8;

/// A teacher, and how far the features of a batch are from its own.
#[derive(Debug)]
pub struct Distillation {
    teacher: Teacher,
    taught: Array,
    loss: CosineLoss,
}

impl Distillation {
    /// Memory for batches of so many features of a width.
    pub fn new(teacher: Teacher, weight: f64, (batch, width): (usize, usize)) -> Self {
        let memory = teacher.params.memory();
        let taught = memory.exact(batch * teacher.width());
        let loss = CosineLoss::new(memory, weight, batch, (width, teacher.width()));
        Self {
            taught,
            teacher,
            loss,
        }
    }

    /// What the distance is multiplied with before it is added to the loss.
    pub fn weight(&self) -> f64 {
        self.loss.weight
    }

    /// The distance of a batch that ranks share equally, before it is weighted; adds the weighted
    /// gradient to that of this rank's features.
    ///
    /// # Shapes
    /// `features`, `gradients` [batch, width].
    pub fn evaluate(
        &mut self,
        pixels: Pixels<'_>,
        (features, gradients): (View<'_>, ViewMut<'_>),
        ranks: &dyn Ranks,
    ) -> f64 {
        let batch = features.len() / self.loss.stretch.width;
        let size = batch * self.teacher.width();
        self.teacher.encode(pixels, self.taught.first_mut(size));
        self.loss
            .evaluate(self.taught.first(size), (features, gradients), ranks)
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
    stretch: Stretch,
    /// One's own features as wide as the teacher's, in this machine's memory.
    stretched: Vec<f32>,
    cosines: Array,
    /// How vectors are stretched, in a device's memory.
    held: Option<Held>,
}

impl CosineLoss {
    /// Memory for so many features of a width, and for those of a teacher.
    pub fn new(memory: &Memory, weight: f64, batch: usize, (width, wide): (usize, usize)) -> Self {
        let stretch = Stretch::new(width, wide);
        let held = Held::new(memory, &stretch);
        let stretched = if held.is_none() {
            vec![0.0; batch * wide]
        } else {
            Vec::new()
        };

        Self {
            weight,
            stretch,
            stretched,
            cosines: memory.exact(batch),
            held,
        }
    }

    /// The distance of a batch that ranks share equally, before it is weighted; adds the weighted
    /// gradient to that of this rank's features.
    ///
    /// # Shapes
    /// `taught` [batch, teacher's width], `features`, `gradients` [batch, width].
    pub fn evaluate(
        &mut self,
        taught: View<'_>,
        (features, gradients): (View<'_>, ViewMut<'_>),
        ranks: &dyn Ranks,
    ) -> f64 {
        let batch = features.len() / self.stretch.width;
        let global_batch = (batch * ranks.count()) as f64;
        let scale = (self.weight / global_batch) as f32;
        let held = self.held.as_ref();
        let stretch = &self.stretch;

        match (self.cosines.first_mut(batch), gradients, held) {
            (ViewMut::Device(mut cosines), ViewMut::Device(mut gradients), Some(held)) => {
                let own = (features.device(), &mut gradients);
                let bounds = (scale, SHORTEST);
                ops::cosines(held.stretch(), taught.device(), own, &mut cosines, bounds);
            }
            (cosines, gradients, _) => {
                let own = (features.host(), gradients.host());
                stretch.cosines(
                    taught.host(),
                    own,
                    (cosines.host(), &mut self.stretched),
                    scale,
                );
            }
        }

        let mut sum = [self
            .cosines
            .first(batch)
            .read()
            .iter()
            .map(|&cosine| f64::from(cosine))
            .sum()];

        ranks.sum(&mut sum);
        1.0 - sum[0] / global_batch
    }
}

/// The cosine of two vectors; the second becomes the gradient of `−scale · cosine`.
fn differentiate(taught: &[f32], own: &mut [f32], scale: f32) -> f32 {
    let inverse = |x: &[f32]| 1.0 / dot(x, x).sqrt().max(SHORTEST);
    let taught_inverse = inverse(taught);
    let own_inverse = inverse(own);
    let cosine = dot(taught, own) * taught_inverse * own_inverse;

    for (own, taught) in own.iter_mut().zip(taught) {
        *own = scale * own_inverse * (cosine * own_inverse * *own - taught_inverse * taught);
    }

    cosine
}

/// Linear interpolation of a vector to another width.
#[derive(Debug)]
struct Stretch {
    width: usize,
    /// For each place the two neighbours it lies between, and the share of the second.
    places: Vec<(usize, usize, f32)>,
}

impl Stretch {
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
            places: (0..wide).map(place).collect(),
        }
    }

    /// The cosine of each pair of rows; adds the gradient of `−scale · cosine` to that of the features.
    fn cosines(
        &self,
        taught: &[f32],
        (features, gradients): (&[f32], &mut [f32]),
        (cosines, stretched): (&mut [f32], &mut [f32]),
        scale: f32,
    ) {
        let width = self.width;
        let wide = self.places.len();
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
                *cosine = differentiate(taught, row, scale);
                self.backward(row, gradient);
            });
    }

    fn forward(&self, from: &[f32], to: &mut [f32]) {
        for (to, &(first, second, share)) in to.iter_mut().zip(&self.places) {
            *to = (1.0 - share) * from[first] + share * from[second];
        }
    }

    /// Adds to the gradient of what was stretched.
    fn backward(&self, dto: &[f32], dfrom: &mut [f32]) {
        for (dto, &(first, second, share)) in dto.iter().zip(&self.places) {
            dfrom[first] += (1.0 - share) * dto;
            dfrom[second] += share * dto;
        }
    }
}

#[cfg(test)]
mod tests;
