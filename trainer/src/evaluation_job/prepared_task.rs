//! The tasks of an evaluation, with their data sets opened and checked before weights are loaded and workers
//! are waited for.

mod retrieval;
mod zero_shot;

use std::collections::HashMap;

use cnclip_crds::tasks::{SelectedTask, TaskConfig};
use cnclip_crds::trainer_config::EvaluateConfig;

use super::EvaluationContext;
use super::check::task_kind_error;
use super::evaluated_model::EvaluatedModel;
use crate::error::Result;
use crate::page::TaskSection;
use cnclip_data::prepare::PrepareOptions;
use cnclip_data::shard::Dataset;
use cnclip_data::split;
use retrieval::RetrievalTask;
use zero_shot::ZeroShotTask;

/// A task that is ready to be scored, shared by all ranks of this process.
pub(super) enum PreparedTask {
    /// A retrieval.
    Retrieval(Box<RetrievalTask>),
    /// A zero-shot classification.
    ZeroShot(Box<ZeroShotTask>),
}

impl PreparedTask {
    /// Prepares every task, in the order of the configuration. A data set that several retrievals name is
    /// opened once.
    ///
    /// # Errors
    /// If a task has none or several kinds, or its data set is unusable.
    pub(super) fn prepare_all(config: &EvaluateConfig) -> Result<Vec<Self>> {
        let mut opened = OpenedDatasets::new(config);
        let prepare = |task: &TaskConfig| {
            let name = &task.name;
            match task.select() {
                Some(SelectedTask::Retrieval(config)) => {
                    let task = RetrievalTask::prepare(name, config, &mut opened)?;
                    Ok(Self::Retrieval(Box::new(task)))
                }
                Some(SelectedTask::ZeroShot(config)) => {
                    let task = ZeroShotTask::prepare(name, config)?;
                    Ok(Self::ZeroShot(Box::new(task)))
                }
                None => Err(task_kind_error(task)),
            }
        };

        config.tasks.iter().map(prepare).collect()
    }

    /// Scores the task on all ranks. Rank 0 writes its files and returns its section of the report.
    ///
    /// # Errors
    /// If the data set is unusable, the files cannot be written, or a rank is lost.
    pub(super) fn score(
        &self,
        model: &mut EvaluatedModel,
        context: EvaluationContext<'_>,
    ) -> Result<Option<TaskSection>> {
        match self {
            Self::Retrieval(task) => task.score(model, context),
            Self::ZeroShot(task) => task.score(model, context),
        }
    }
}

/// The data sets of shards of an evaluation, by URI: several tasks may name the same.
struct OpenedDatasets {
    options: PrepareOptions,
    // Opening a split in the reference's layout converts it to shards, which takes minutes.
    by_uri: HashMap<String, Dataset>,
}

impl OpenedDatasets {
    fn new(config: &EvaluateConfig) -> Self {
        let options = PrepareOptions {
            max_skipped_ratio: config.max_skipped_percent / 100.0,
            limit_name: "maxSkippedPercent",
            ..PrepareOptions::default()
        };

        Self {
            options,
            by_uri: HashMap::new(),
        }
    }

    fn open_dataset(&mut self, uri: &str) -> Result<Dataset> {
        if let Some(dataset) = self.by_uri.get(uri) {
            return Ok(dataset.clone());
        }

        let dataset = split::open_dataset(uri, &self.options)?;
        self.by_uri.insert(uri.to_owned(), dataset.clone());
        Ok(dataset)
    }
}
