//! The evaluated model: its weights on their device, its tokenizer and its input sizes.

use cnclip_crds::model::ModelConfig;
use cnclip_crds::trainer_config::{EvaluateConfig, PinnedFile};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::evaluate::EncoderInputSizes;
use crate::evaluate::zero_shot::SubmissionModel;
use crate::host_memory::ensure_model_fits;
use crate::model_resolver::{self, DEFAULT_CONTEXT_LENGTH, ResolvedWeights};
use crate::rank_values::{broadcast_json, broadcast_params};
use crate::weights::{ModelPart, WeightsError, load_weights};
use cnclip_compute::params::Params;
use cnclip_compute::tensor::Memory;
use cnclip_data::tokenizer::Tokenizer;
use cnclip_distributed::Communicator;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ComputeOptions};

/// A model with its weights and tokenizer.
pub(super) struct EvaluatedModel {
    /// Where the weights are from.
    pub(super) origin: ModelOrigin,
    /// The weights as they were found, on rank 0 alone.
    pub(super) weights: Option<ResolvedWeights>,
    /// The description of the model in submissions.
    pub(super) submission_model: SubmissionModel,
    /// The towers.
    pub(super) clip: Clip,
    /// Their weights on the rank's device.
    pub(super) params: Params,
    /// The tokenizer of its text tower.
    pub(super) tokenizer: Tokenizer,
    /// The sizes of its inputs.
    pub(super) input_sizes: EncoderInputSizes,
}

/// What all ranks know of the evaluated weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ModelOrigin {
    /// Where they were in the end.
    pub(super) uri: String,
    /// SHA-256 of the manifest of their checkpoint.
    pub(super) digest: Option<String>,
    model: ModelConfig,
    /// Tokens of the longest text that they were trained with, if that is known.
    context_length: Option<i32>,
    /// The vocabulary that they were trained with, if that is known.
    vocabulary: Option<PinnedFile>,
}

impl ModelOrigin {
    fn of_weights(found: &ResolvedWeights) -> Result<Self> {
        let trained = found.config.as_ref();
        Ok(Self {
            uri: found.uri.clone(),
            digest: found.digest.clone(),
            model: found.model_config()?,
            context_length: trained.map(|trained| trained.context_length),
            vocabulary: trained.and_then(|trained| trained.vocabulary.clone()),
        })
    }
}

impl EvaluatedModel {
    /// Resolves the weights on rank 0, and loads them onto the devices of all ranks.
    ///
    /// # Errors
    /// If there are none, they or the vocabulary do not fit the model, memory is short, or a rank is lost.
    pub(super) fn load_checkpoint(
        config: &EvaluateConfig,
        memory: &Memory,
        communicator: &Communicator,
    ) -> Result<Self> {
        let mut weights = None;
        let mut origin = None;
        if communicator.is_rank_zero() {
            let found = weights.insert(model_resolver::resolve_weights(&config.checkpoint)?);
            origin = Some(ModelOrigin::of_weights(found)?);
        }

        let not_sent = || Error::Bug("rank 0 sent no model".into());
        let origin: Option<ModelOrigin> = broadcast_json(communicator, &origin)?;
        let origin = origin.ok_or_else(not_sent)?;
        let model = &origin.model;

        // Token ids must mean what they meant in training, so its vocabulary is the default.
        let vocabulary = config.vocabulary.as_ref().or(origin.vocabulary.as_ref());
        let tokenizer = model_resolver::load_tokenizer(vocabulary, model.text.vocab_size)?;
        let sizes = input_sizes(config, &origin);
        let (clip, mut params) = build_clip(memory, model, sizes)?;
        if let Some(found) = &weights {
            let unfit = WeightsError::error_mapper(&found.uri, Error::Data);
            load_weights(&mut params, &found.tensors, ModelPart::All).map_err(unfit)?;
        }

        broadcast_params(communicator, &mut params)?;
        // Copies to a GPU are asynchronous: their errors should appear here, not in the first task.
        memory.synchronize()?;

        let tensors = params.segments().iter();
        let tensors = tensors.map(|segment| (segment.name.as_str(), segment.range.len()));
        let submission_model = SubmissionModel::from_tensors(model, tensors);
        Ok(Self {
            origin,
            weights,
            submission_model,
            clip,
            params,
            tokenizer,
            input_sizes: sizes,
        })
    }

    /// Whether all ranks have the same weights.
    ///
    /// # Errors
    /// If one has others, or is lost.
    pub(super) fn ensure_same_weights(&self, world: &Communicator) -> Result<()> {
        let values = self.params.values.to_host();
        // Bit patterns, because a NaN is not equal to itself as a float.
        let bits: &[u32] = bytemuck::cast_slice(&values);
        world.ensure_equal_across_ranks("checkpoint", (&self.origin.digest, bits))?;
        Ok(())
    }
}

fn input_sizes(config: &EvaluateConfig, origin: &ModelOrigin) -> EncoderInputSizes {
    let model = &origin.model;
    let longest = DEFAULT_CONTEXT_LENGTH.min(model.text.positions as usize);
    EncoderInputSizes {
        image_size: model.image.resolution as usize,
        // Published weights do not record it; their models were trained with the default.
        context_length: origin
            .context_length
            .map_or(longest, |length| length as usize),
        batch_size: config.batch_size as usize,
    }
}

fn build_clip(
    memory: &Memory,
    model: &ModelConfig,
    sizes: EncoderInputSizes,
) -> Result<(Clip, Params)> {
    // No gradients are computed, so activations need not be kept for them.
    let compute = ComputeOptions {
        recompute: true,
        ..ComputeOptions::default()
    };

    let capacity = BatchCapacity {
        batch: sizes.batch_size,
        context: sizes.context_length,
    };

    // A device says itself that its memory is short; this process would only end.
    if memory.device().is_none() {
        ensure_model_fits(model)?;
    }

    Ok(Clip::new_in(memory, model, capacity, compute))
}
