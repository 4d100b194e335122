//! What each task is scored on, found to be usable before weights are read and workers are waited for.

use std::collections::HashMap;

use cnclip_crds::run_config::{EvaluateConfig, TaskConfig};

use super::check::kindless;
use crate::error::Result;
use crate::evaluate::zero_shot;
use cnclip_data::prepare::Options;
use cnclip_data::shard::Dataset;
use cnclip_data::split;

/// What a task is scored on, once for all ranks of this process.
pub(super) enum Ready {
    /// The data set of a retrieval.
    Retrieval(Dataset),
    /// All of a classification but its pictures.
    ZeroShot(Box<zero_shot::Ready>),
}

impl Ready {
    /// That of every task, in their order; a data set that several retrievals name is opened once.
    ///
    /// # Errors
    /// If a task is of no kind or of two, or what it names cannot be used.
    pub(super) fn all(config: &EvaluateConfig) -> Result<Vec<Self>> {
        let options = Options {
            most_skipped: config.max_skipped_percent / 100.0,
            skipped_by: "maxSkippedPercent",
            ..Options::default()
        };

        let mut opened = HashMap::new();
        let ready = |task: &TaskConfig| match (&task.retrieval, &task.zero_shot) {
            (Some(retrieval), None) => {
                let uri = &retrieval.dataset;
                if !opened.contains_key(uri) {
                    opened.insert(uri.clone(), split::open(uri, &options)?);
                }

                Ok(Self::Retrieval(opened[uri].clone()))
            }
            (None, Some(config)) => {
                let ready = zero_shot::Ready::check(&task.name, config)?;
                Ok(Self::ZeroShot(Box::new(ready)))
            }
            _ => Err(kindless(task)),
        };

        config.tasks.iter().map(ready).collect()
    }
}
