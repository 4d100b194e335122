//! Validates the configuration of an evaluation. Opens nothing.

use cnclip_crds::tasks::TaskConfig;
use cnclip_crds::trainer_config::EvaluateConfig;

use crate::error::{Error, Result};

/// Validates what can be validated without opening a data set or weights.
///
/// # Errors
/// If a field has an invalid value; with the field and how to correct it.
pub(super) fn check_config(config: &EvaluateConfig) -> Result<()> {
    if let Some(task) = config.tasks.iter().find(|task| task.select().is_none()) {
        return Err(task_kind_error(task));
    }

    let problem = if let Some(problem) = config.world.validation_error() {
        problem
    } else if config.tasks.is_empty() {
        "tasks is empty; name at least one.".to_owned()
    } else if config.batch_size < 1 {
        format!("batchSize is {}; it must be at least 1.", config.batch_size)
    } else if !(0.0..=100.0).contains(&config.max_skipped_percent) {
        format!(
            "maxSkippedPercent is {}; it must be 0 to 100.",
            config.max_skipped_percent
        )
    } else {
        return Ok(());
    };

    Err(Error::Config(problem))
}

/// The error for a task with none or several kinds.
pub(super) fn task_kind_error(task: &TaskConfig) -> Error {
    Error::Config(format!(
        "task {} must have exactly one of retrieval and zeroShot.",
        task.name
    ))
}
