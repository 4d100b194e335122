//! The evaluated model: its weights on their device, its tokenizer and its input sizes.

use cnclip_crds::model::ModelConfig;
use cnclip_crds::trainer_config::{EvaluateConfig, TrainConfig};

use crate::error::{Error, Result};
use crate::evaluate::EncoderInputSizes;
use crate::evaluate::zero_shot::SubmissionModel;
use crate::model_resolver::{self, DEFAULT_CONTEXT_LENGTH, ResolvedWeights};
use crate::weights::{ModelPart, WeightsError, load_weights};
use cnclip_compute::params::Params;
use cnclip_compute::tensor::Memory;
use cnclip_data::tokenizer::Tokenizer;
use cnclip_distributed::Communicator;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ComputeOptions};

/// A model with its weights and tokenizer.
pub(super) struct EvaluatedModel {
    /// The weights and their origin.
    pub(super) weights: ResolvedWeights,
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

impl EvaluatedModel {
    /// Resolves the weights and loads them onto the rank's device.
    ///
    /// # Errors
    /// If there are none, they or the vocabulary do not fit the model, or memory is short.
    pub(super) fn load_checkpoint(config: &EvaluateConfig, memory: &Memory) -> Result<Self> {
        let found = model_resolver::resolve_weights(&config.checkpoint)?;
        let model = found.model_config()?;
        let trained = found.config.as_ref();
        let vocabulary = config.vocabulary.as_ref();
        // Token ids must mean what they meant in training, so its vocabulary is the default.
        let vocabulary = vocabulary.or_else(|| trained?.vocabulary.as_ref());
        let tokenizer = model_resolver::load_tokenizer(vocabulary, model.text.vocab_size)?;
        let sizes = input_sizes(config, &model, trained);
        let (clip, params) = build_clip(memory, &model, sizes, &found)?;

        let tensors = params.segments().iter();
        let tensors = tensors.map(|segment| (segment.name.as_str(), segment.range.len()));
        let model = SubmissionModel::from_tensors(&model, tensors);
        Ok(Self {
            submission_model: model,
            clip,
            params,
            tokenizer,
            input_sizes: sizes,
            weights: found,
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
        world.ensure_equal_across_ranks("checkpoint", (&self.weights.digest, bits))?;
        Ok(())
    }
}

fn input_sizes(
    config: &EvaluateConfig,
    model: &ModelConfig,
    trained: Option<&TrainConfig>,
) -> EncoderInputSizes {
    let longest = DEFAULT_CONTEXT_LENGTH.min(model.text.positions as usize);
    EncoderInputSizes {
        image_size: model.image.resolution as usize,
        // Published weights do not record it; their models were trained with the default.
        context_length: trained.map_or(longest, |trained| trained.context_length as usize),
        batch_size: config.batch_size as usize,
    }
}

fn build_clip(
    memory: &Memory,
    model: &ModelConfig,
    sizes: EncoderInputSizes,
    found: &ResolvedWeights,
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
    let (clip, mut params) = Clip::new_in(memory, model, capacity, compute);
    let unfit = WeightsError::error_mapper(&found.uri, Error::Data);
    load_weights(&mut params, &found.tensors, ModelPart::All).map_err(unfit)?;
    // Copies to a GPU are asynchronous: their errors should appear here, not in the first task.
    memory.synchronize()?;

    Ok((clip, params))
}
