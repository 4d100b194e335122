//! Scores a retrieval task and writes its files.

mod files;

use cnclip_crds::artifacts;
use cnclip_crds::tasks::RetrievalConfig;

use super::OpenedDatasets;
use crate::error::Result;
use crate::evaluate::{ClipEncoder, calibration, score_retrieval};
use crate::evaluation_job::EvaluationContext;
use crate::evaluation_job::evaluated_model::EvaluatedModel;
use crate::page::{PublicDataset, RetrievalExamples, TaskDetails, TaskSection};
use cnclip_data::shard::Dataset;
use files::write_retrieval_files;

/// A retrieval with its data set.
pub(in crate::evaluation_job) struct RetrievalTask {
    /// Name of the task.
    name: String,
    /// Its configuration.
    config: RetrievalConfig,
    /// Its data set.
    dataset: Dataset,
}

impl RetrievalTask {
    /// Opens the data set, unless another task has opened it.
    ///
    /// # Errors
    /// If the data set is unusable.
    pub(super) fn prepare(
        name: &str,
        config: &RetrievalConfig,
        opened: &mut OpenedDatasets,
    ) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            dataset: opened.open_dataset(&config.dataset)?,
            config: config.clone(),
        })
    }

    /// Scores the task on all ranks. Rank 0 writes its files and returns its section of the report.
    ///
    /// # Errors
    /// If the data set is unusable, the files cannot be written, or a rank is lost.
    pub(in crate::evaluation_job) fn score(
        &self,
        model: &mut EvaluatedModel,
        context: EvaluationContext<'_>,
    ) -> Result<Option<TaskSection>> {
        // Before encoding, which takes most of the time, so that an invalid request fails early.
        let precision = calibration::requested_precision(&self.name, &self.config, &self.dataset)?;
        let options = context.encode_options(model.input_sizes);
        let mut encoder = ClipEncoder {
            clip: &mut model.clip,
            params: &mut model.params,
            check: None,
        };

        let scored = score_retrieval(
            &self.name,
            &self.dataset,
            &model.tokenizer,
            &mut encoder,
            options,
            context.communicator,
        )?;

        let Some(mut scored) = scored else {
            return Ok(None);
        };

        if let Some(precision) = precision {
            scored.calibrate_threshold(precision);
        }

        let folder = artifacts::task_folder(&self.name);
        write_retrieval_files(
            &scored,
            &context.config.features,
            &context.artifacts.join_prefix(&folder),
        )?;

        let examples = RetrievalExamples::from_scored(&scored, &self.dataset)?;
        Ok(Some(TaskSection {
            result: scored.result,
            shown: Some(TaskDetails::Retrieval(examples)),
            public: self.config.benchmark.map(PublicDataset::Retrieval),
        }))
    }
}
