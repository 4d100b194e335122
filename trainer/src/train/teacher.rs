//! The teacher of a distillation: found and checked before memory is planned, built after. Never trains it.

use cnclip_compute::tensor::Memory;
use cnclip_crds::model::{ImageTower, ModelConfig};
use cnclip_crds::trainer_config::{DistillationConfig, TrainConfig};
use cnclip_distributed::Communicator;
use cnclip_nn::distillation::Distillation;
use cnclip_nn::model::teacher::Teacher;

use crate::error::{Error, Result};
use crate::model_resolver::{self, ResolvedWeights};
use crate::rank_values::{broadcast_json, broadcast_params};
use crate::weights::{ModelPart, WeightsError, load_weights};

/// The teacher that a stage names, found but not built.
#[derive(Debug)]
pub(super) struct ResolvedTeacher {
    /// Rank 0's alone, which sends them to the others.
    weights: Option<ResolvedWeights>,
    image: ImageTower,
    embed_dim: i32,
    loss_weight: f64,
}

impl ResolvedTeacher {
    /// Finds the teacher's weights and checks that its tower can be built and sees the same images.
    ///
    /// # Errors
    /// If there are no such weights, the tower does not fit the stage, or a rank is lost.
    pub(super) fn resolve(
        config: &TrainConfig,
        distillation: &DistillationConfig,
        communicator: &Communicator,
    ) -> Result<Self> {
        let DistillationConfig {
            teacher: uri,
            weight,
        } = distillation;

        let mut weights = None;
        let mut found = None;
        if communicator.is_rank_zero() {
            let resolved = weights.insert(model_resolver::resolve_weights(uri)?);
            found = Some(resolved.image_tower()?);
        }

        let no_tower = || Error::Bug(format!("rank 0 sent no image tower of {uri}"));
        let found: Option<(ImageTower, i32)> = broadcast_json(communicator, &found)?;
        let (image, embed_dim) = found.ok_or_else(no_tower)?;
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
    /// If its weights do not fit its tower, or a rank is lost.
    pub(super) fn build_distillation(
        &self,
        memory: &Memory,
        config: &TrainConfig,
        communicator: &Communicator,
        micro_batch: usize,
        local_batch: usize,
    ) -> Result<Distillation> {
        let embed_dim = self.embed_dim as usize;
        let mut teacher = Teacher::new(memory, &self.image, embed_dim, micro_batch);

        if let Some(weights) = &self.weights {
            let to_error = WeightsError::error_mapper(&weights.uri, Error::Config);
            load_weights(&mut teacher.params, &weights.tensors, ModelPart::Image)
                .map_err(to_error)?;
            tracing::info!(uri = weights.uri, "loaded teacher");
        }

        broadcast_params(communicator, &mut teacher.params)?;
        let student_dim = config.model.embed_dim as usize;
        Ok(Distillation::new(
            teacher,
            self.loss_weight,
            local_batch,
            student_dim,
        ))
    }
}
