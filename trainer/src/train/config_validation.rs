//! Rejects invalid configurations before any data is read.

use cnclip_crds::trainer_config::TrainConfig;

use crate::error::{Error, Result};

/// Ensures that a configuration is valid.
///
/// # Errors
/// The first violated constraint: the field, its value and the remedy.
pub(super) fn validate_config(config: &TrainConfig) -> Result<()> {
    match config.problems().first() {
        Some(problem) => Err(Error::Config(problem.to_string())),
        None => Ok(()),
    }
}
