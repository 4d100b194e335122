//! What a run writes under its stage's prefix: checkpoints while it goes on, and the stage's end. Rank 0
//! alone writes; on other ranks everything here does nothing. Decides neither when nor what.

use cnclip_crds::artifacts::{self, CHECKPOINTS_FOLDER};
use cnclip_crds::grace::TERMINATION_GRACE;
use cnclip_crds::report::{CheckpointReport, MAX_CHECKPOINTS};
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_data::store::Store;
use cnclip_distributed::Communicator;

use super::finalize;
use crate::checkpoint::{
    CheckpointSnapshot, CheckpointWriter, Fence, FenceClaim, WrittenCheckpoint,
};
use crate::error::{Error, Result};
use crate::progress::Reporter;
use crate::progress::history::TrainingHistory;

/// The prefix of a stage, and on rank 0 the right to write there.
#[derive(Debug)]
pub(super) struct CheckpointSaver {
    stage: Store,
    checkpoints: Store,
    /// Rank 0's alone.
    writer: Option<CheckpointWriter>,
    /// The step of the last checkpoint that this attempt wrote.
    last_written: Option<u64>,
    /// Checkpoints since the last that was written.
    failed_in_a_row: u32,
}

/// A run that cannot save its state ends, rather than compute for days what the next failure destroys.
const MAX_FAILED_CHECKPOINTS: u32 = 3;

impl CheckpointSaver {
    /// Opens the prefix; on rank 0, claims it for this attempt.
    ///
    /// # Errors
    /// If a later attempt or another run holds it, or the store fails.
    pub(super) fn claim(config: &TrainConfig, communicator: &Communicator) -> Result<Self> {
        let prefix = artifacts::stage_prefix(&config.artifacts, &config.run.stage);
        let stage = Store::open(&prefix)?;
        let checkpoints = stage.join_prefix(CHECKPOINTS_FOLDER);
        let mut writer = None;

        // Ranks hold equal weights, and claims of several would fence each other.
        if communicator.is_rank_zero() {
            let fence = Fence::acquire(&stage, fence_claim(config))?;
            let keep = config.checkpoint.keep as usize;
            writer = Some(CheckpointWriter::new(checkpoints.clone(), fence, keep));
        }

        Ok(Self {
            stage,
            checkpoints,
            writer,
            last_written: None,
            failed_in_a_row: 0,
        })
    }

    /// The folder of all checkpoints.
    pub(super) fn checkpoints(&self) -> &Store {
        &self.checkpoints
    }

    /// Whether this rank writes.
    pub(super) fn is_writer(&self) -> bool {
        self.writer.is_some()
    }

    /// The step of the last checkpoint that this attempt wrote.
    pub(super) fn last_written(&self) -> Option<u64> {
        self.last_written
    }

    /// Begins to write a checkpoint; the run goes on meanwhile.
    ///
    /// # Errors
    /// If another process took over.
    pub(super) fn save(&mut self, snapshot: CheckpointSnapshot, reporter: &Reporter) -> Result<()> {
        match &mut self.writer {
            Some(writer) => {
                let before = writer.start_write(snapshot);
                self.record_outcome(before, reporter)
            }
            None => Ok(()),
        }
    }

    /// Whether no checkpoint is being written.
    pub(super) fn is_idle(&self) -> bool {
        self.writer.as_ref().is_none_or(CheckpointWriter::is_idle)
    }

    /// Waits until the checkpoint begun last is visible, or failed.
    ///
    /// # Errors
    /// If another process took over, or too many failed.
    pub(super) fn finish_write(&mut self, reporter: &Reporter) -> Result<()> {
        match &mut self.writer {
            Some(writer) => {
                let written = writer.finish_write();
                self.record_outcome(written, reporter)
            }
            None => Ok(()),
        }
    }

    /// Makes way for the state after `newest` steps of a run that is asked to stop: see
    /// [`CheckpointWriter::make_way_for`].
    ///
    /// # Errors
    /// If another process took over, or too many failed.
    pub(super) fn make_way_for(&mut self, newest: u64, reporter: &Reporter) -> Result<()> {
        match &mut self.writer {
            Some(writer) => {
                let written = writer.make_way_for(newest, TERMINATION_GRACE);
                self.record_outcome(written, reporter)
            }
            None => Ok(()),
        }
    }

    /// Reports a checkpoint that became visible since.
    ///
    /// # Errors
    /// If another process took over.
    pub(super) fn poll(&mut self, reporter: &Reporter) -> Result<()> {
        match &mut self.writer {
            Some(writer) => {
                let written = writer.poll_finished();
                self.record_outcome(written, reporter)
            }
            None => Ok(()),
        }
    }

    /// A store that fails for a while costs a checkpoint, not the run; a lost fence ends it, because all
    /// that it would still compute is the work of another process now.
    fn record_outcome(
        &mut self,
        written: Result<Option<WrittenCheckpoint>>,
        reporter: &Reporter,
    ) -> Result<()> {
        match written {
            Ok(None) => Ok(()),
            Ok(Some(written)) => {
                self.record_written(written, reporter);
                Ok(())
            }
            Err(error @ Error::Fenced(_)) => Err(error),
            Err(error) => {
                self.failed_in_a_row += 1;
                tracing::warn!("a checkpoint was not written: {error}");
                reporter.update_report(|report| {
                    report.checkpoints_failed += 1;
                    report.checkpoint_error = Some(error.to_string());
                });

                match self.failed_in_a_row >= MAX_FAILED_CHECKPOINTS {
                    true => Err(error),
                    false => Ok(()),
                }
            }
        }
    }

    fn record_written(&mut self, written: WrittenCheckpoint, reporter: &Reporter) {
        self.failed_in_a_row = 0;
        self.last_written = Some(written.step);
        report_checkpoint(written, reporter);
    }

    /// Waits for the checkpoint begun last, and writes the curves next to it.
    ///
    /// # Errors
    /// If they could not be written: unlike a checkpoint on the way, nothing comes after the last one.
    pub(super) fn finish(&mut self, history: &TrainingHistory, reporter: &Reporter) -> Result<()> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };

        if let Some(written) = writer.finish_write()? {
            self.record_written(written, reporter);
        }

        // A copy next to the checkpoints: a later stage's page reads the curves of its predecessors
        // without opening a checkpoint, and retention does not remove it.
        self.ensure_fence_held()?;
        let curves = history.to_jsonl();
        Ok(self.stage.put(artifacts::METRICS_FILE, curves.into())?)
    }

    fn ensure_fence_held(&self) -> Result<()> {
        match &self.writer {
            Some(writer) => writer.ensure_fence_held(),
            None => Ok(()),
        }
    }

    /// Names the checkpoint that the stage ends with, and writes the page of the run.
    ///
    /// # Errors
    /// If there is none, or the store fails.
    pub(super) fn finish_stage(&self, config: &TrainConfig) -> Result<()> {
        self.ensure_fence_held()?;
        if self.is_writer() {
            // The result before its presentation: a kill between the two leaves a stage without a
            // page, but with a named checkpoint.
            finalize::write_final_checkpoint(&self.stage)?;
            finalize::write_report_page(config)?;
        }

        Ok(())
    }
}

/// Without a cluster there is no UID, and the name has to do.
fn fence_claim(config: &TrainConfig) -> FenceClaim {
    let run = if config.run.uid.is_empty() {
        &config.run.name
    } else {
        &config.run.uid
    };

    FenceClaim {
        run: run.clone(),
        attempt: config.run.attempt.max(1) as u32,
    }
}

fn report_checkpoint(written: WrittenCheckpoint, reporter: &Reporter) {
    let checkpoint = CheckpointReport {
        step: written.step as i64,
        uri: written.uri,
        digest: written.digest,
        written_at: jiff::Timestamp::now().as_second(),
    };

    reporter.update_report(|report| {
        // Newest first: a termination message that is too long drops entries from the end.
        report.checkpoints.insert(0, checkpoint);
        report.checkpoints.truncate(MAX_CHECKPOINTS);
        report.checkpoint_error = None;
    });
}
