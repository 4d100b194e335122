//! The data sets of an evaluation's retrievals, each opened once for all ranks of this process.

use std::collections::HashMap;

use cnclip_crds::run_config::EvaluateConfig;

use crate::data::prepare::Options;
use crate::data::shard::Dataset;
use crate::data::split;
use crate::error::{Error, Result};

/// Data sets by where the configuration says that they are.
pub(super) struct Datasets(HashMap<String, Dataset>);

impl Datasets {
    /// Opens all of them: a mistake in the last one is told before the first one is scored.
    ///
    /// # Errors
    /// If one cannot be used.
    pub(super) fn open(config: &EvaluateConfig) -> Result<Self> {
        let options = Options {
            most_skipped: config.max_skipped_percent / 100.0,
            skipped_by: "maxSkippedPercent",
            ..Options::default()
        };
        let mut opened = HashMap::new();
        for task in config.tasks.iter().filter_map(|task| task.retrieval.as_ref()) {
            if !opened.contains_key(&task.dataset) {
                opened.insert(task.dataset.clone(), split::open(&task.dataset, &options)?);
            }
        }
        Ok(Self(opened))
    }

    /// One of them.
    pub(super) fn get(&self, uri: &str) -> Result<&Dataset> {
        self.0.get(uri).ok_or_else(|| Error::Bug(format!("{uri} was not opened")))
    }
}
