//! Knowledge distillation: pulls the features of images toward a teacher's. Knows neither texts nor weights.

use cnclip_compute::collective::Collective;
use cnclip_compute::ops::distillation::CosineSimilarity;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::tensor::{Memory, Tensor, TensorView};

use crate::model::FeaturesAndGradients;
use crate::model::teacher::Teacher;

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
        let batch = student.features.len() / self.loss.similarity.width();
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
    similarity: CosineSimilarity,
    cosines: Tensor,
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
        Self {
            weight,
            similarity: CosineSimilarity::new_in(memory, batch, width, teacher_width),
            cosines: memory.alloc_f32(batch),
        }
    }

    /// The distance of a batch that ranks share equally, before it is weighted; adds the weighted
    /// gradient to that of this rank's features.
    ///
    /// # Shapes
    /// `teacher_features` `[batch, teacher's width]`, the student's `[batch, width]`.
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

        let batch = features.len() / self.similarity.width();
        // The mean is over the global batch, so gradients of ranks add up like those of the loss.
        let global_batch = (batch * ranks.world_size()) as f64;
        let scale = (self.weight / global_batch) as f32;
        let cosines = self.cosines.first_n_mut(batch);
        self.similarity.cosines_with_gradients(
            teacher_features,
            features,
            gradients,
            cosines,
            scale,
        );

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

#[cfg(test)]
mod tests;
