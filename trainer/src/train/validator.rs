//! The validation of a training: recall on held-out samples. Decides neither when nor on which weights.

use std::sync::Arc;

use cnclip_crds::tasks::RetrievalRecalls;
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_data::shard::Dataset;
use cnclip_data::tokenizer::Tokenizer;
use cnclip_distributed::Communicator;

use super::stepper::Stepper;
use crate::error::Result;
use crate::evaluate::{ClipEncoder, EncodeOptions, EncoderInputSizes, evaluate_recalls};

/// Held-out samples, and how often recall on them is measured.
#[derive(Debug)]
pub(super) struct Validator {
    dataset: Dataset,
    tokenizer: Arc<Tokenizer>,
    every_steps: u64,
    image_size: usize,
    context_length: usize,
    max_skipped_ratio: f64,
}

impl Validator {
    /// Opens the data set of the validation; `None` if the configuration names none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn open(config: &TrainConfig, tokenizer: Arc<Tokenizer>) -> Result<Option<Self>> {
        let Some(validation) = &config.validation else {
            return Ok(None);
        };

        Ok(Some(Self {
            dataset: Dataset::open(&validation.dataset)?,
            tokenizer,
            every_steps: validation.every_steps as u64,
            image_size: config.model.image.resolution as usize,
            context_length: config.context_length as usize,
            max_skipped_ratio: config.max_skipped_percent / 100.0,
        }))
    }

    /// The digest of its data set.
    pub(super) fn dataset_digest(&self) -> &String {
        &self.dataset.index().dataset
    }

    /// Images and texts that are compared.
    pub(super) fn item_count(&self) -> u64 {
        let shards = self.dataset.index().shards.iter();
        shards.map(|shard| shard.images + shard.pairs).sum()
    }

    /// Steps from one validation to the next.
    pub(super) fn every_steps(&self) -> u64 {
        self.every_steps
    }

    /// Recall of the model that the stage would end with now, for rank 0.
    ///
    /// # Errors
    /// If the data set cannot be read or has no labels, or a rank is lost; that of `check`, which is called again and
    /// again meanwhile.
    pub(super) fn measure_recalls(
        &self,
        stepper: &mut Stepper,
        communicator: &Communicator,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Option<RetrievalRecalls>> {
        let input_sizes = EncoderInputSizes {
            image_size: self.image_size,
            context_length: self.context_length,
            // What fits in training fits without gradients too.
            batch_size: stepper.micro_batch_size(),
        };

        let options = EncodeOptions {
            input_sizes,
            max_skipped_ratio: self.max_skipped_ratio,
        };

        // Each rank encodes a part of the samples, and their features are compared: all must come
        // from one model, the one that rank 0 saves.
        stepper.sync_buffers(communicator)?;
        stepper.with_ema_weights(|clip, params| {
            evaluate_recalls(
                &self.dataset,
                &self.tokenizer,
                &mut ClipEncoder {
                    clip,
                    params,
                    check: Some(check),
                },
                options,
                communicator,
            )
        })
    }
}
