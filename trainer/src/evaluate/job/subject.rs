//! What is scored: weights as a model in its place. Measures one task after the other, and writes what
//! other programs take of each.

use cnclip_crds::artifacts;
use cnclip_crds::model::ModelConfig;
use cnclip_crds::run_config::{EvaluateConfig, TaskConfig, TrainConfig};

use super::ready::Ready;
use crate::error::{Error, Result};
use crate::evaluate::zero_shot::{self, Model};
use crate::evaluate::{Sizes, calibration, files, score};
use crate::report::page::{Classes, Examples, Public, Shown, Task};
use crate::source::{self, CONTEXT_LENGTH, Found};
use crate::weights::{Part, WeightsError, load};
use cnclip_compute::params::Params;
use cnclip_compute::tensor::Memory;
use cnclip_data::shard::Dataset;
use cnclip_data::store::Store;
use cnclip_data::tokenize::Tokenizer;
use cnclip_distributed::World;
use cnclip_nn::model::clip::{Capacity, Clip, Compute};

/// What an evaluation asks for, and where its files go.
type Asked<'a> = (&'a EvaluateConfig, &'a Store);

/// A model with its weights, and what it needs to see and read.
pub(super) struct Subject {
    /// Where the weights are from.
    pub(super) found: Found,
    /// What submissions say of it.
    model: Model,
    clip: Clip,
    params: Params,
    tokenizer: Tokenizer,
    sizes: Sizes,
}

impl Subject {
    /// Finds the weights and puts them where the rank computes.
    ///
    /// # Errors
    /// If there are none, they or the vocabulary do not fit the model, or memory is short.
    pub(super) fn find(config: &EvaluateConfig, memory: &Memory) -> Result<Self> {
        let found = source::weights(&config.checkpoint)?;
        let model = found.model()?;
        let trained = found.config.as_ref();
        let vocabulary = config.vocabulary.as_ref();
        let vocabulary = vocabulary.or_else(|| trained?.vocabulary.as_ref());
        let tokenizer = source::tokenizer(vocabulary, model.text.vocab_size)?;
        let sizes = sizes(config, &model, trained);
        let (clip, params) = build(memory, &model, sizes, &found)?;

        let tensors = params.segments().iter();
        let tensors = tensors.map(|segment| (segment.name.as_str(), segment.range.len()));
        let model = Model::of(&model, tensors);
        Ok(Self {
            model,
            clip,
            params,
            tokenizer,
            sizes,
            found,
        })
    }

    /// Whether all ranks have the same weights.
    ///
    /// # Errors
    /// If one has others, or is lost.
    pub(super) fn agree(&self, world: &World) -> Result<()> {
        let values = self.params.values.read();
        let bits: &[u32] = bytemuck::cast_slice(&values);
        world.agree("checkpoint", (&self.found.digest, bits))?;
        Ok(())
    }

    /// Scores one task on all ranks; rank 0 writes its files, and chooses what is shown.
    ///
    /// # Errors
    /// If the data set cannot be used, the files cannot be written, or a rank is lost.
    pub(super) fn measure(
        &mut self,
        (task, ready): (&TaskConfig, &Ready),
        asked: Asked<'_>,
        world: &World,
    ) -> Result<Option<Task>> {
        match ready {
            Ready::Retrieval(dataset) => self.retrieve((task, dataset), asked, world),
            Ready::ZeroShot(ready) => self.classify((task, ready), asked, world),
        }
    }

    fn retrieve(
        &mut self,
        (task, dataset): (&TaskConfig, &Dataset),
        (config, artifacts): Asked<'_>,
        world: &World,
    ) -> Result<Option<Task>> {
        let precision = calibration::wanted(task, dataset)?;
        let limits = self.limits(config);
        let mut encoder = (&mut self.clip, &mut self.params);
        let scored = score(
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
            .for_each(|precision| scored.calibrate(precision));

        files::write(
            &scored,
            &config.features,
            &artifacts.join(&artifacts::task(&task.name)),
        )?;

        let shown = Shown::Retrieval(Examples::of(&scored, dataset)?);
        let benchmark = task
            .retrieval
            .as_ref()
            .and_then(|retrieval| retrieval.benchmark);

        Ok(Some(Task {
            result: scored.result,
            shown,
            public: benchmark.map(Public::Retrieval),
        }))
    }

    fn classify(
        &mut self,
        (task, ready): (&TaskConfig, &zero_shot::Ready),
        (config, artifacts): Asked<'_>,
        world: &World,
    ) -> Result<Option<Task>> {
        let limits = self.limits(config);
        let mut encoder = (&mut self.clip, &mut self.params);
        let scored = zero_shot::score(ready, &self.tokenizer, &mut encoder, limits, world)?;

        if !world.is_first() {
            return Ok(None);
        }

        scored.write(ready, &self.model, artifacts)?;
        let shown = Shown::ZeroShot(Classes::of(&scored, &ready.store)?);
        let preset = task
            .zero_shot
            .as_ref()
            .and_then(|zero_shot| zero_shot.preset);

        Ok(Some(Task {
            result: scored.result,
            shown,
            public: preset.map(Public::ZeroShot),
        }))
    }

    fn limits(&self, config: &EvaluateConfig) -> (Sizes, f64) {
        (self.sizes, config.max_skipped_percent / 100.0)
    }
}

fn sizes(config: &EvaluateConfig, model: &ModelConfig, trained: Option<&TrainConfig>) -> Sizes {
    let longest = CONTEXT_LENGTH.min(model.text.positions as usize);
    Sizes {
        side: model.image.resolution as usize,
        context_length: trained.map_or(longest, |trained| trained.context_length as usize),
        batch: config.batch_size as usize,
    }
}

fn build(
    memory: &Memory,
    model: &ModelConfig,
    sizes: Sizes,
    found: &Found,
) -> Result<(Clip, Params)> {
    let Sizes {
        batch,
        context_length: context,
        ..
    } = sizes;

    let compute = Compute {
        recompute: true,
        ..Compute::default()
    };

    let capacity = Capacity { batch, context };
    let (clip, mut params) = Clip::within(memory, model, capacity, compute);
    let unfit = WeightsError::of(&found.uri, Error::Data);
    load(&mut params, &found.tensors, Part::All).map_err(unfit)?;
    memory.check()?;

    Ok((clip, params))
}
