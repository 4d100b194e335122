//! Scores a retrieval task and writes its files.

use cnclip_crds::artifacts;
use cnclip_crds::tasks::RetrievalConfig;

use super::EvaluationContext;
use super::evaluated_model::EvaluatedModel;
use super::retrieval_files::write_retrieval_files;
use crate::error::Result;
use crate::evaluate::{ClipEncoder, calibration, score_retrieval};
use crate::page::{PublicDataset, RetrievalExamples, TaskDetails, TaskSection};
use cnclip_data::shard::Dataset;

/// A retrieval with its data set.
pub(super) struct RetrievalTask {
    /// Name of the task.
    pub(super) name: String,
    /// Its configuration.
    pub(super) config: RetrievalConfig,
    /// Its data set.
    pub(super) dataset: Dataset,
}

impl RetrievalTask {
    /// Scores the task on all ranks. Rank 0 writes its files and returns its section of the report.
    ///
    /// # Errors
    /// If the data set is unusable, the files cannot be written, or a rank is lost.
    pub(super) fn score(
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
            shown: TaskDetails::Retrieval(examples),
            public: self.config.benchmark.map(PublicDataset::Retrieval),
        }))
    }
}
