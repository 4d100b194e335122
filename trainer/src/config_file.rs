//! The configuration of a run, in YAML or JSON. Knows no field of it.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Reads a configuration file.
///
/// # Errors
/// If it cannot be read, or is no configuration.
pub fn read_config<C: DeserializeOwned>(file: &Path) -> Result<C> {
    let text = std::fs::read_to_string(file).map_err(Error::io_context("read", file))?;
    parse_config(&text).map_err(|error| {
        Error::Config(format!(
            "{} is not a configuration: {error}",
            file.display()
        ))
    })
}

/// Parses a configuration as YAML, of which JSON is a subset. Unknown keys are refused.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse_config<C: DeserializeOwned>(text: &str) -> Result<C, String> {
    // Through a JSON value, so that errors and number types are the same for both formats.
    let value: serde_json::Value =
        serde_norway::from_str(text).map_err(|error| error.to_string())?;

    serde_json::from_value(value).map_err(|error| error.to_string())
}
