//! candle's side, always in fp32 on the CPU.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{ParamsAdamW, VarBuilder, VarMap};
use cnclip_compute::params::Params;
use cnclip_compute::sync::lock_ignoring_poison;
use cnclip_crds::model::ModelConfig;
use cnclip_oracle::{ChineseClip, TrainingOutput, gradients_by_name, normalize_pixels};

use super::engine::{ADAMW_SETTINGS, LEARNING_RATE};
use super::synthetic_batch::SyntheticBatch;
use crate::error::{Error, Result};

/// The model with the same weights.
pub(super) struct OracleStep {
    model: ChineseClip,
    parameters: VarMap,
}

impl OracleStep {
    /// Copies the weights.
    pub(super) fn new(config: &ModelConfig, params: &Params) -> Result<Self> {
        let parameters = VarMap::new();
        insert_parameters(&parameters, params)?;
        let vb = VarBuilder::from_varmap(&parameters, DType::F32, &Device::Cpu);
        let model = ChineseClip::new(config, vb)?;

        Ok(Self { model, parameters })
    }

    pub(super) fn forward(&self, batch: &SyntheticBatch) -> Result<TrainingOutput> {
        let pairs = batch.pair_count();
        let shape = (pairs, 3, batch.side, batch.side);
        let bytes = Tensor::from_slice(&batch.pixels, shape, &Device::Cpu)?;
        let shape = (pairs, batch.context);
        let ids = Tensor::from_vec(batch.padded_ids(), shape, &Device::Cpu)?;
        let pixels = normalize_pixels(&bytes)?;

        Ok(self.model.forward_train(&pixels, &ids)?)
    }

    /// By name.
    pub(super) fn gradients(&self, forward: &TrainingOutput) -> Result<BTreeMap<String, Tensor>> {
        Ok(gradients_by_name(&self.parameters, &forward.loss)?)
    }

    /// A parameter, or a running statistic.
    pub(super) fn parameter(&self, name: &str) -> Result<Var> {
        let variables = lock_ignoring_poison(self.parameters.data());
        let found = variables.get(name).cloned();
        found.ok_or_else(|| Error::Bug(format!("candle's model has no parameter `{name}`")))
    }

    /// What one step of candle's AdamW adds to a parameter that has this gradient.
    pub(super) fn update_of(
        &self,
        name: &str,
        gradient: &[f32],
        has_weight_decay: bool,
    ) -> Result<Vec<f32>> {
        let before = self.parameter(name)?;
        // A copy, because the optimizer writes into it and the original is compared afterwards.
        let weight = Var::from_tensor(&before.as_tensor().copy()?.detach())?;
        let gradient = Tensor::from_slice(gradient, weight.shape(), &Device::Cpu)?;
        let settings = ParamsAdamW {
            lr: LEARNING_RATE,
            beta1: ADAMW_SETTINGS.beta_1,
            beta2: ADAMW_SETTINGS.beta_2,
            eps: ADAMW_SETTINGS.epsilon,
            weight_decay: if has_weight_decay {
                ADAMW_SETTINGS.weight_decay
            } else {
                0.0
            },
        };

        cnclip_oracle::first_adamw_step(&weight, &gradient, settings)?;
        flat_values(&(weight.as_tensor().detach() - before.as_tensor().detach())?)
    }
}

/// Puts every tensor of the trainer's parameters into the map, by name.
fn insert_parameters(parameters: &VarMap, params: &Params) -> Result<()> {
    let mut variables = lock_ignoring_poison(parameters.data());
    for (segment, values) in params.named_tensors() {
        let values = values.to_host();
        let tensor = Tensor::from_slice(&values, &segment.shape[..], &Device::Cpu)?;
        variables.insert(segment.name.clone(), Var::from_tensor(&tensor)?);
    }

    Ok(())
}

/// The values of a tensor in rows.
pub(super) fn flat_values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}
