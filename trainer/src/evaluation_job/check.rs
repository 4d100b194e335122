//! Whether an evaluation was asked for that can be. Looks at nothing but the configuration.

use cnclip_crds::tasks::TaskConfig;
use cnclip_crds::trainer_config::EvaluateConfig;

use crate::error::{Error, Result};

/// Whether the evaluation can be.
///
/// # Errors
/// If not; with what is wrong and what to do.
pub(super) fn check_config(config: &EvaluateConfig) -> Result<()> {
    let two_kinds = |task: &&TaskConfig| task.retrieval.is_some() == task.zero_shot.is_some();
    if let Some(task) = config.tasks.iter().find(two_kinds) {
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

/// What is told of a task that is of no kind, or of two.
pub(super) fn task_kind_error(task: &TaskConfig) -> Error {
    Error::Config(format!(
        "task {} must have exactly one of retrieval and zeroShot.",
        task.name
    ))
}
