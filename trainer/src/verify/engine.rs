//! The trainer's side: its own forward and backward passes and its optimizer.

use cnclip_compute::collective::SingleRank;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::params::{ParamInit, Params};
use cnclip_compute::random::{derive_key, normal_f32};
use cnclip_compute::tensor::Memory;
use cnclip_crds::model::ModelConfig;
use cnclip_nn::loss::ContrastiveLoss;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ComputeOptions};
use cnclip_nn::optimizer::{AdamW, AdamWSettings, NonFiniteGradient};

use super::VerifyOptions;
use super::synthetic_batch::SyntheticBatch;
use crate::error::{Error, Result};
use crate::model_resolver::ResolvedWeights;
use crate::weights::{ModelPart, load_weights};

/// So large that the update stands out from the rounding of the weights it is added to.
pub(super) const LEARNING_RATE: f64 = 1e-2;

/// The published recipe's, without gradient clipping.
pub(super) const ADAMW_SETTINGS: AdamWSettings = AdamWSettings {
    beta_1: 0.9,
    beta_2: 0.98,
    epsilon: 1e-6,
    weight_decay: 0.1,
    max_norm: None,
};

/// Spread of what is added to weights that start as constants.
const INIT_NOISE: f32 = 0.1;

/// A model in a device's memory.
pub(super) struct EngineStep {
    clip: Clip,
    params: Params,
    loss: ContrastiveLoss,
}

/// What the forward pass computed, in this machine's memory.
pub(super) struct EngineForward {
    /// Name and output of each block.
    pub(super) blocks: Vec<(String, Vec<f32>)>,
    pub(super) image_features: Vec<f32>,
    pub(super) text_features: Vec<f32>,
    pub(super) loss: f64,
}

impl EngineStep {
    pub(super) fn new(
        config: &ModelConfig,
        memory: &Memory,
        options: VerifyOptions,
        context: usize,
        weights: Option<&ResolvedWeights>,
    ) -> Result<Self> {
        let batch = options.batch;
        let compute = ComputeOptions {
            // The outputs of all blocks are compared, so none may be discarded.
            recompute: false,
            precision: options.precision,
        };

        let capacity = BatchCapacity { batch, context };
        let (clip, mut params) = Clip::new_in(memory, config, capacity, compute);
        let loss = ContrastiveLoss::new_in(memory, batch, batch, clip.feature_width());
        memory.synchronize()?;
        match weights {
            Some(found) => load_weights(&mut params, &found.tensors, ModelPart::All)
                .map_err(|error| Error::Data(format!("{}: {error}", found.uri)))?,
            None => init_random_weights(&mut params, options.seed),
        }

        Ok(Self { clip, params, loss })
    }

    pub(super) fn params(&self) -> &Params {
        &self.params
    }

    /// Forward, loss and backward; the gradients are in the parameters.
    pub(super) fn compute_gradients(&mut self, batch: &SyntheticBatch) -> Result<EngineForward> {
        let Self { clip, params, loss } = self;
        let pairs = batch.pair_count();
        let given = batch.as_clip_batch();
        let scale = clip.logit_scale(params);
        let features = clip.forward(params, given, Dropout::NONE);
        let score = loss.compute_loss(features, scale, &SingleRank);
        let image_features = features.images.to_host().into_owned();
        let text_features = features.texts.to_host().into_owned();
        // Copied out before the backward pass, which may reuse their memory.
        let blocks = clip.block_outputs(given).into_iter();
        let blocks = blocks.map(|block| (block.name, block.values.to_host().into_owned()));
        let computed = EngineForward {
            blocks: blocks.collect(),
            image_features,
            text_features,
            loss: score.loss,
        };

        params.clear_gradients();
        clip.add_logit_scale_gradient(params, score.logit_scale_gradient as f32);
        clip.backward(
            params,
            given,
            Dropout::NONE,
            loss.feature_gradients(0..pairs),
            &mut (),
        );

        params.memory().synchronize()?;
        Ok(computed)
    }

    /// One step of AdamW from moments of zero.
    ///
    /// # Errors
    /// If a gradient is not finite; then no weight is changed.
    pub(super) fn update_weights(&mut self) -> Result<(), NonFiniteGradient> {
        let mut adamw = AdamW::new(&self.params, ADAMW_SETTINGS);
        // Steps count from 0: this has the bias correction of a first step, as candle's has.
        adamw.step(&mut self.params, 0, LEARNING_RATE).map(|_| ())
    }
}

/// As before training, but with noise on what starts as a constant: where the last scale of a residual
/// branch is zero, as in a ResNet, the gradients before it are all zero, whatever computes them.
fn init_random_weights(params: &mut Params, seed: u64) {
    params.init_values(seed);
    // Buffers follow the trained tensors: running statistics keep their initial values.
    let trained = params.segments().len();
    let segments = params.named_tensors_mut().take(trained);
    for ((segment, mut values), number) in segments.zip(1..) {
        if !matches!(segment.init, ParamInit::Zeros | ParamInit::Ones) {
            continue;
        }

        let key = derive_key(seed, number);
        values.update_on_host(|values| {
            let noisy = values.iter_mut().zip(0..);
            noisy.for_each(|(value, at)| *value += INIT_NOISE * normal_f32(derive_key(key, at)));
        });
    }
}
