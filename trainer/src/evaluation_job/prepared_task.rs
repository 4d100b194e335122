//! The tasks of an evaluation, with their data sets opened and checked before weights are loaded and workers
//! are waited for.

use std::collections::HashMap;

use cnclip_crds::tasks::{SelectedTask, TaskConfig};
use cnclip_crds::trainer_config::EvaluateConfig;

use super::EvaluationContext;
use super::check::task_kind_error;
use super::evaluated_model::EvaluatedModel;
use super::retrieval_task::RetrievalTask;
use super::zero_shot_task::ZeroShotTask;
use crate::error::Result;
use crate::evaluate::zero_shot::PreparedZeroShot;
use crate::page::TaskSection;
use cnclip_data::prepare::PrepareOptions;
use cnclip_data::split;

/// A task that is ready to be scored, shared by all ranks of this process.
pub(super) enum PreparedTask {
    /// A retrieval.
    Retrieval(RetrievalTask),
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
        let options = PrepareOptions {
            max_skipped_ratio: config.max_skipped_percent / 100.0,
            limit_name: "maxSkippedPercent",
            ..PrepareOptions::default()
        };

        // Opening a split in the reference's layout converts it to shards, which takes minutes.
        let mut opened = HashMap::new();
        let prepare = |task: &TaskConfig| match task.select() {
            Some(SelectedTask::Retrieval(config)) => {
                let uri = &config.dataset;
                if !opened.contains_key(uri) {
                    opened.insert(uri.clone(), split::open_dataset(uri, &options)?);
                }

                Ok(Self::Retrieval(RetrievalTask {
                    name: task.name.clone(),
                    config: config.clone(),
                    dataset: opened[uri].clone(),
                }))
            }
            Some(SelectedTask::ZeroShot(config)) => Ok(Self::ZeroShot(Box::new(ZeroShotTask {
                preset: config.preset,
                prepared: PreparedZeroShot::from_config(&task.name, config)?,
            }))),
            None => Err(task_kind_error(task)),
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
