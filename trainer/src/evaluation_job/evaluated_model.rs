//! What is scored: weights as a model in its place. Measures one task after the other, and writes what
//! other programs take of each.

use cnclip_crds::artifacts;
use cnclip_crds::model::ModelConfig;
use cnclip_crds::tasks::TaskConfig;
use cnclip_crds::trainer_config::{EvaluateConfig, TrainConfig};

use super::prepared_task::PreparedTask;
use super::retrieval_files;
use crate::error::{Error, Result};
use crate::evaluate::zero_shot::{self, SubmissionModel};
use crate::evaluate::{EncoderInputSizes, calibration, score_retrieval};
use crate::model_resolver::{self, DEFAULT_CONTEXT_LENGTH, ResolvedWeights};
use crate::page::{ClassDetails, PublicDataset, RetrievalExamples, TaskDetails, TaskSection};
use crate::weights::{ModelPart, WeightsError, load_weights};
use cnclip_compute::params::Params;
use cnclip_compute::tensor::Memory;
use cnclip_data::shard::Dataset;
use cnclip_data::store::Store;
use cnclip_data::tokenizer::Tokenizer;
use cnclip_distributed::Communicator;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ComputeOptions};

/// What an evaluation asks for, and where its files go.
type EvaluationContext<'a> = (&'a EvaluateConfig, &'a Store);

/// A model with its weights, and what it needs to see and read.
pub(super) struct EvaluatedModel {
    /// Where the weights are from.
    pub(super) weights: ResolvedWeights,
    /// What submissions say of it.
    submission_model: SubmissionModel,
    clip: Clip,
    params: Params,
    tokenizer: Tokenizer,
    input_sizes: EncoderInputSizes,
}

impl EvaluatedModel {
    /// Finds the weights and puts them where the rank computes.
    ///
    /// # Errors
    /// If there are none, they or the vocabulary do not fit the model, or memory is short.
    pub(super) fn load_checkpoint(config: &EvaluateConfig, memory: &Memory) -> Result<Self> {
        let found = model_resolver::resolve_weights(&config.checkpoint)?;
        let model = found.model_config()?;
        let trained = found.config.as_ref();
        let vocabulary = config.vocabulary.as_ref();
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
        let bits: &[u32] = bytemuck::cast_slice(&values);
        world.ensure_equal_across_ranks("checkpoint", (&self.weights.digest, bits))?;
        Ok(())
    }

    /// Scores one task on all ranks; rank 0 writes its files, and chooses what is shown.
    ///
    /// # Errors
    /// If the data set cannot be used, the files cannot be written, or a rank is lost.
    pub(super) fn score_task(
        &mut self,
        (task, ready): (&TaskConfig, &PreparedTask),
        asked: EvaluationContext<'_>,
        world: &Communicator,
    ) -> Result<Option<TaskSection>> {
        match ready {
            PreparedTask::Retrieval(dataset) => {
                self.score_retrieval_task((task, dataset), asked, world)
            }
            PreparedTask::ZeroShot(ready) => self.score_zero_shot_task((task, ready), asked, world),
        }
    }

    fn score_retrieval_task(
        &mut self,
        (task, dataset): (&TaskConfig, &Dataset),
        (config, artifacts): EvaluationContext<'_>,
        world: &Communicator,
    ) -> Result<Option<TaskSection>> {
        let precision = calibration::requested_precision(task, dataset)?;
        let limits = self.encoder_limits(config);
        let mut encoder = (&mut self.clip, &mut self.params);
        let scored = score_retrieval(
            &task.name,
            dataset,
            &self.tokenizer,
            &mut encoder,
            limits,
            world,
        )?;

        let Some(mut scored) = scored else {
            return Ok(None);
        };

        precision
            .into_iter()
            .for_each(|precision| scored.calibrate_threshold(precision));

        retrieval_files::write_retrieval_files(
            &scored,
            &config.features,
            &artifacts.join_prefix(&artifacts::task_folder(&task.name)),
        )?;

        let shown = TaskDetails::Retrieval(RetrievalExamples::from_scored(&scored, dataset)?);
        let benchmark = task
            .retrieval
            .as_ref()
            .and_then(|retrieval| retrieval.benchmark);

        Ok(Some(TaskSection {
            result: scored.result,
            shown,
            public: benchmark.map(PublicDataset::Retrieval),
        }))
    }

    fn score_zero_shot_task(
        &mut self,
        (task, ready): (&TaskConfig, &zero_shot::PreparedZeroShot),
        (config, artifacts): EvaluationContext<'_>,
        world: &Communicator,
    ) -> Result<Option<TaskSection>> {
        let limits = self.encoder_limits(config);
        let mut encoder = (&mut self.clip, &mut self.params);
        let scored =
            zero_shot::score_zero_shot(ready, &self.tokenizer, &mut encoder, limits, world)?;

        if !world.is_rank_zero() {
            return Ok(None);
        }

        scored.write_files(ready, &self.submission_model, artifacts)?;
        let shown = TaskDetails::ZeroShot(ClassDetails::from_scored(&scored, &ready.store)?);
        let preset = task
            .zero_shot
            .as_ref()
            .and_then(|zero_shot| zero_shot.preset);

        Ok(Some(TaskSection {
            result: scored.result,
            shown,
            public: preset.map(PublicDataset::ZeroShot),
        }))
    }

    fn encoder_limits(&self, config: &EvaluateConfig) -> (EncoderInputSizes, f64) {
        (self.input_sizes, config.max_skipped_percent / 100.0)
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
    let EncoderInputSizes {
        batch_size: batch,
        context_length: context,
        ..
    } = sizes;

    let compute = ComputeOptions {
        recompute: true,
        ..ComputeOptions::default()
    };

    let capacity = BatchCapacity { batch, context };
    let (clip, mut params) = Clip::new_in(memory, model, capacity, compute);
    let unfit = WeightsError::error_mapper(&found.uri, Error::Data);
    load_weights(&mut params, &found.tensors, ModelPart::All).map_err(unfit)?;
    memory.synchronize()?;

    Ok((clip, params))
}
