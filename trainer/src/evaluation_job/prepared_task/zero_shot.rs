//! Scores a zero-shot classification task and writes its files.

use cnclip_crds::tasks::{DatasetPreset, ZeroShotConfig};

use crate::error::Result;
use crate::evaluate::ClipEncoder;
use crate::evaluate::zero_shot::{PreparedZeroShot, score_zero_shot};
use crate::evaluation_job::EvaluationContext;
use crate::evaluation_job::evaluated_model::EvaluatedModel;
use crate::page::{ClassDetails, PublicDataset, TaskDetails, TaskSection};

/// A zero-shot classification with its data set.
pub(in crate::evaluation_job) struct ZeroShotTask {
    /// The public data set that it is, if any.
    preset: Option<DatasetPreset>,
    /// Its class names, templates and list of images.
    prepared: PreparedZeroShot,
}

impl ZeroShotTask {
    /// Reads and checks everything except the images themselves.
    ///
    /// # Errors
    /// If the data set is unusable.
    pub(super) fn prepare(name: &str, config: &ZeroShotConfig) -> Result<Self> {
        Ok(Self {
            preset: config.preset,
            prepared: PreparedZeroShot::from_config(name, config)?,
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
        let options = context.encode_options(model.input_sizes);
        let mut encoder = ClipEncoder {
            clip: &mut model.clip,
            params: &mut model.params,
            check: None,
        };

        let scored = score_zero_shot(
            &self.prepared,
            &model.tokenizer,
            &mut encoder,
            options,
            context.communicator,
        )?;

        if !context.communicator.is_rank_zero() {
            return Ok(None);
        }

        scored.write_files(&self.prepared, &model.submission_model, context.artifacts)?;
        let classes = ClassDetails::from_scored(&scored, &self.prepared.store)?;
        Ok(Some(TaskSection {
            result: scored.result,
            shown: Some(TaskDetails::ZeroShot(classes)),
            public: self.preset.map(PublicDataset::ZeroShot),
        }))
    }
}
