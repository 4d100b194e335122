//! Validates the configuration of an evaluation. Opens nothing.

use cnclip_crds::tasks::{TASK_KIND_FIELDS, TaskConfig};
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

    match config.problems().first() {
        Some(problem) => Err(Error::Config(problem.to_string())),
        None => Ok(()),
    }
}

/// The error for a task with none or several kinds.
pub(super) fn task_kind_error(task: &TaskConfig) -> Error {
    Error::Config(format!(
        "task {} must have exactly one of {TASK_KIND_FIELDS}.",
        task.name
    ))
}
