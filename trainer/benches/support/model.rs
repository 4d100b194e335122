//! The model that a benchmark is given on its command line.

use cnclip_crds::model::{Architecture, ModelConfig};

/// A published model by its name, or the `model` of a configuration in a file of JSON.
///
/// # Errors
/// If it is neither.
pub(crate) fn parse_model(name: &str) -> anyhow::Result<ModelConfig> {
    if let Ok(text) = std::fs::read(name) {
        return Ok(serde_json::from_slice(&text)?);
    }

    let architecture: Architecture = serde_json::from_value(name.into())?;
    architecture
        .published_model()
        .ok_or_else(|| anyhow::anyhow!("{name} is no published model"))
}
