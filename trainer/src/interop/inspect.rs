//! Describes weights from their headers and configuration, without reading values.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use cnclip_crds::model::Architecture;
use serde::Serialize;

use crate::error::Result;
use crate::model_resolver::{self, ResolvedWeights};
use crate::weights::{StoredTensor, Weights, summarize_names};

/// A description of weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightsInspection {
    /// URI of the resolved weights.
    pub uri: String,
    /// File format and naming scheme.
    pub layout: String,
    /// Summary of the towers.
    pub architecture: String,
    /// The published model with these towers.
    pub preset: Option<Architecture>,
    /// Numbers of trainable parameters.
    pub parameters: ParameterCounts,
    /// Data types of the tensors.
    pub dtypes: BTreeSet<String>,
    /// Completed epochs, where the file records them.
    pub epoch: Option<u64>,
    /// Steps completed.
    pub step: Option<u64>,
    /// SHA-256 of the manifest of their checkpoint.
    pub digest: Option<String>,
    /// SHA-256 of the weights file, as recorded in the manifest.
    pub sha256: Option<String>,
    /// Tensors that no supported model has.
    pub left_out: Vec<String>,
}

/// Numbers of trainable parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ParameterCounts {
    /// Of the image tower, including its projection.
    pub image: usize,
    /// Of the text tower, including its projection.
    pub text: usize,
    /// Of the whole model, including the logit scale.
    pub total: usize,
}

/// Resolves weights as [`model_resolver::resolve_weights`] does, but reads headers only and checks no digest.
///
/// # Errors
/// If there are no weights at `uri`.
pub fn inspect_weights(uri: &str) -> Result<WeightsInspection> {
    let ResolvedWeights {
        uri,
        digest,
        sha256,
        step,
        config,
        towers,
        tensors,
    } = model_resolver::resolve_unverified(uri)?;

    let model = config
        .as_ref()
        .map(|config| config.model.clone())
        .or_else(|| towers.model_config());

    let layout = match config {
        Some(_) => "checkpoint of cnclip".to_owned(),
        None => tensors.format().to_string(),
    };

    Ok(WeightsInspection {
        uri,
        layout,
        architecture: model
            .as_ref()
            .map_or_else(|| towers.to_string(), ToString::to_string),
        preset: model.as_ref().and_then(Architecture::from_model),
        parameters: ParameterCounts::from_weights(&tensors),
        dtypes: stored_tensors(&tensors)
            .map(|(_, stored)| stored.dtype_name())
            .collect(),
        epoch: tensors.recorded_progress().epoch,
        step,
        digest,
        sha256,
        left_out: tensors.ignored_names().map(str::to_owned).collect(),
    })
}

fn stored_tensors(weights: &Weights) -> impl Iterator<Item = (&str, &StoredTensor)> {
    weights
        .tensor_names()
        .filter_map(|name| Some((name, weights.get(name)?)))
}

impl ParameterCounts {
    fn from_weights(weights: &Weights) -> Self {
        // Buffers of batch normalization: stored beside the parameters, but not trained.
        let buffers = [".running_mean", ".running_var", ".num_batches_tracked"];
        let is_buffer = |name: &str| buffers.iter().any(|end| name.ends_with(end));
        let trained = || stored_tensors(weights).filter(|(name, _)| !is_buffer(name));

        let count = |starts: &[&str]| {
            let is_taken = |name: &str| starts.iter().any(|start| name.starts_with(start));
            trained()
                .filter(|(name, _)| is_taken(name))
                .map(|(_, stored)| stored.element_count())
                .sum()
        };

        Self {
            image: count(&["visual."]),
            text: count(&["bert.", "text_projection"]),
            total: trained().map(|(_, stored)| stored.element_count()).sum(),
        }
    }
}

/// A table for the terminal.
impl Display for WeightsInspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ParameterCounts { image, text, total } = self.parameters;
        let preset = self
            .preset
            .and_then(|preset| serde_json::to_value(preset).ok());

        let preset = preset.as_ref().and_then(|preset| preset.as_str());
        let left_out = summarize_names(self.left_out.iter().map(String::as_str));
        let dtypes: Vec<&str> = self.dtypes.iter().map(String::as_str).collect();

        let rows = [
            ("uri", Some(self.uri.clone())),
            ("layout", Some(self.layout.clone())),
            ("architecture", Some(self.architecture.clone())),
            ("preset", preset.map(str::to_owned)),
            (
                "parameters",
                Some(format!("{total}: image {image}, text {text}")),
            ),
            ("numbers", Some(dtypes.join(", "))),
            ("epoch", self.epoch.map(|epoch| epoch.to_string())),
            ("step", self.step.map(|step| step.to_string())),
            ("digest", self.digest.clone()),
            ("sha256", self.sha256.clone()),
            ("left out", Some(left_out).filter(|names| !names.is_empty())),
        ];

        for (name, value) in rows {
            if let Some(value) = value {
                writeln!(f, "{name:<14}{value}")?;
            }
        }

        Ok(())
    }
}
