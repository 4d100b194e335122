//! What is told of weights without reading their values.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use cnclip_crds::model::{Architecture, ModelConfig, TextTower};
use serde::Serialize;

use crate::error::Result;
use crate::model_resolver::{self, ResolvedWeights};
use crate::weights::{StoredTensor, Weights, summarize_names};

/// What weights are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightsInspection {
    /// Where they were in the end.
    pub uri: String,
    /// Who wrote them, or whose names they have.
    pub layout: String,
    /// Their towers in a few words.
    pub architecture: String,
    /// The published model of these towers.
    pub preset: Option<Architecture>,
    /// How many numbers are trained.
    pub parameters: ParameterCounts,
    /// The kinds of their numbers.
    pub dtypes: BTreeSet<String>,
    /// Passes over the data, where a file counts them.
    pub epoch: Option<u64>,
    /// Steps completed.
    pub step: Option<u64>,
    /// SHA-256 of the manifest of their checkpoint.
    pub digest: Option<String>,
    /// SHA-256 of their file, as that manifest says it.
    pub sha256: Option<String>,
    /// Tensors that are not part of any model of ours.
    pub left_out: Vec<String>,
}

/// How many numbers are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ParameterCounts {
    /// In the image tower, its projection included.
    pub image: usize,
    /// In the text tower, its projection included.
    pub text: usize,
    /// In all, the temperature included.
    pub total: usize,
}

/// Finds weights as [`source::weights`] does, and reads no more than what is told of them.
///
/// # Errors
/// If there is nothing of the kind.
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
        preset: model.as_ref().and_then(find_preset),
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

/// The published model of these towers, however much of them is dropped in training.
fn find_preset(model: &ModelConfig) -> Option<Architecture> {
    use Architecture::*;
    let same = |architecture: &Architecture| {
        architecture.published_model().is_some_and(|towers| {
            let text = TextTower {
                hidden_dropout_percent: model.text.hidden_dropout_percent,
                attention_dropout_percent: model.text.attention_dropout_percent,
                ..towers.text
            };

            *model == ModelConfig { text, ..towers }
        })
    };

    [Rn50, VitB32, VitB16, VitL14, VitL14At336, VitH14]
        .into_iter()
        .find(same)
}

fn stored_tensors(weights: &Weights) -> impl Iterator<Item = (&str, &StoredTensor)> {
    weights
        .tensor_names()
        .filter_map(|name| Some((name, weights.get(name)?)))
}

impl ParameterCounts {
    fn from_weights(weights: &Weights) -> Self {
        let state = [".running_mean", ".running_var", ".num_batches_tracked"];
        let trained = || {
            stored_tensors(weights).filter(|(name, _)| !state.iter().any(|end| name.ends_with(end)))
        };
        let count = |starts: &[&str]| {
            let taken = trained().filter(|(name, _)| starts.iter().any(|s| name.starts_with(s)));
            taken.map(|(_, stored)| stored.element_count()).sum()
        };

        Self {
            image: count(&["visual."]),
            text: count(&["bert.", "text_projection"]),
            total: trained().map(|(_, stored)| stored.element_count()).sum(),
        }
    }
}

/// A table for people.
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
