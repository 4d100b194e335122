//! What each task is scored on, found to be usable before weights are read and workers are waited for.

use std::collections::HashMap;

use cnclip_crds::tasks::TaskConfig;
use cnclip_crds::trainer_config::EvaluateConfig;

use super::check::task_kind_error;
use crate::error::Result;
use crate::evaluate::zero_shot;
use cnclip_data::prepare::PrepareOptions;
use cnclip_data::shard::Dataset;
use cnclip_data::split;

/// What a task is scored on, once for all ranks of this process.
pub(super) enum PreparedTask {
    /// The data set of a retrieval.
    Retrieval(Dataset),
    /// All of a classification but its pictures.
    ZeroShot(Box<zero_shot::PreparedZeroShot>),
}

impl PreparedTask {
    /// That of every task, in their order; a data set that several retrievals name is opened once.
    ///
    /// # Errors
    /// If a task is of no kind or of two, or what it names cannot be used.
    pub(super) fn prepare_all(config: &EvaluateConfig) -> Result<Vec<Self>> {
        let options = PrepareOptions {
            max_skipped_ratio: config.max_skipped_percent / 100.0,
            limit_name: "maxSkippedPercent",
            ..PrepareOptions::default()
        };

        let mut opened = HashMap::new();
        let ready = |task: &TaskConfig| match (&task.retrieval, &task.zero_shot) {
            (Some(retrieval), None) => {
                let uri = &retrieval.dataset;
                if !opened.contains_key(uri) {
                    opened.insert(uri.clone(), split::open_dataset(uri, &options)?);
                }

                Ok(Self::Retrieval(opened[uri].clone()))
            }
            (None, Some(config)) => {
                let ready = zero_shot::PreparedZeroShot::from_config(&task.name, config)?;
                Ok(Self::ZeroShot(Box::new(ready)))
            }
            _ => Err(task_kind_error(task)),
        };

        config.tasks.iter().map(ready).collect()
    }
}
