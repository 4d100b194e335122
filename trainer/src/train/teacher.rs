//! The teacher of a distillation: found and checked before memory is planned, built after. Never trains it.

use cnclip_compute::tensor::Memory;
use cnclip_crds::model::{ImageTower, ModelConfig};
use cnclip_crds::trainer_config::{DistillationConfig, TrainConfig};
use cnclip_nn::distillation::Distillation;
use cnclip_nn::model::teacher::Teacher;

use crate::error::{Error, Result};
use crate::model_resolver::{self, ResolvedWeights};
use crate::weights::{ModelPart, WeightsError, load_weights};

/// The teacher that a stage names, found but not built.
#[derive(Debug)]
pub(super) struct ResolvedTeacher {
    weights: ResolvedWeights,
    image: ImageTower,
    embed_dim: i32,
    loss_weight: f64,
}

impl ResolvedTeacher {
    /// Finds the teacher's weights and checks that its tower can be built and sees the same images.
    ///
    /// # Errors
    /// If there are no such weights, or the tower does not fit the stage.
    pub(super) fn resolve(config: &TrainConfig, distillation: &DistillationConfig) -> Result<Self> {
        let DistillationConfig {
            teacher: uri,
            weight,
        } = distillation;

        let weights = model_resolver::resolve_weights(uri)?;
        let (image, embed_dim) = weights.image_tower()?;
        // Validation takes a whole model, so the student's text tower completes the teacher's.
        let model = ModelConfig {
            image: image.clone(),
            embed_dim,
            ..config.model.clone()
        };

        if let Some(problem) = model.validation_error() {
            return Err(Error::Data(format!(
                "The teacher {uri} cannot be built: {problem}."
            )));
        }

        // Teacher and student take the same pixels: there is one resize in the loader.
        let side = config.model.image.resolution;
        if image.resolution != side {
            return Err(Error::Config(format!(
                "The teacher {uri} takes images of {0} × {0} pixels, the trained tower {side} × {side}: \
                 they must be equal. Name a teacher of resolution {side}.",
                image.resolution
            )));
        }

        Ok(Self {
            weights,
            image,
            embed_dim,
            loss_weight: *weight,
        })
    }

    /// Its image tower, and the length of its features.
    pub(super) fn image_tower(&self) -> (&ImageTower, usize) {
        (&self.image, self.embed_dim as usize)
    }

    /// Builds it in a rank's memory, with its loss against features of the trained model.
    ///
    /// # Errors
    /// If its weights do not fit its tower.
    pub(super) fn build_distillation(
        &self,
        memory: &Memory,
        config: &TrainConfig,
        micro_batch: usize,
        local_batch: usize,
    ) -> Result<Distillation> {
        let embed_dim = self.embed_dim as usize;
        let mut teacher = Teacher::new(memory, &self.image, embed_dim, micro_batch);

        let to_error = WeightsError::error_mapper(&self.weights.uri, Error::Config);
        load_weights(&mut teacher.params, &self.weights.tensors, ModelPart::Image)
            .map_err(to_error)?;
        tracing::info!(uri = self.weights.uri, "loaded teacher");

        let student_dim = config.model.embed_dim as usize;
        Ok(Distillation::new(
            teacher,
            self.loss_weight,
            local_batch,
            student_dim,
        ))
    }
}
