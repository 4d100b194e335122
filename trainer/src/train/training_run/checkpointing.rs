//! What a run writes: checkpoints while it goes on, and what is there when it ends.

use cnclip_crds::artifacts;
use cnclip_crds::report::{CheckpointReport, MAX_CHECKPOINTS, TrainerActivity};

use super::TrainingRun;
use crate::checkpoint::{
    CONFIG_FILE, CheckpointSnapshot, HISTORY_FILE, MOMENTS_FILE, STATE_FILE, TrainingState,
    UNAVERAGED_WEIGHTS_FILE, WEIGHTS_FILE, WrittenCheckpoint,
};
use crate::error::{Error, Result};
use crate::progress::Reporter;
use crate::train::finalize;
use crate::weights::{write_moments, write_safetensors};

impl TrainingRun {
    /// Begins to write a checkpoint; the run goes on meanwhile.
    ///
    /// # Errors
    /// If another process took over, or the state cannot be written down.
    pub(in crate::train) fn save_checkpoint(&mut self, reporter: &Reporter) -> Result<()> {
        if self.writer.is_none() {
            return Ok(());
        }

        let snapshot = self.take_snapshot()?;
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };

        report_write_result(writer.start_write(snapshot), reporter)
    }

    fn take_snapshot(&mut self) -> Result<CheckpointSnapshot> {
        let json = |what: serde_json::Result<Vec<u8>>| {
            what.map_err(|error| Error::Bug(format!("a state cannot be written as JSON: {error}")))
        };

        let step = self.progress.step;
        let measured = self
            .progress
            .validation
            .filter(|found| found.step == step as i64);

        let unaveraged = self.ema.as_ref().map(|_| write_safetensors(&self.params));

        self.swap_ema();
        let weights = write_safetensors(&self.params);
        self.swap_ema();
        let moments = write_moments(&self.params, &self.adamw);
        // What was read back of a device after a fault is not what it held.
        self.params.memory().synchronize()?;
        let files = [
            (WEIGHTS_FILE, weights),
            (MOMENTS_FILE, moments),
            (
                STATE_FILE,
                json(serde_json::to_vec(&self.training_state()))?,
            ),
            (CONFIG_FILE, json(serde_json::to_vec(&self.config))?),
            (HISTORY_FILE, self.progress.history.to_jsonl().into_bytes()),
        ];

        let files = files
            .into_iter()
            .chain(unaveraged.map(|bytes| (UNAVERAGED_WEIGHTS_FILE, bytes)));

        let files = files
            .map(|(name, bytes)| (name.to_owned(), bytes.into()))
            .collect();

        Ok(CheckpointSnapshot {
            step,
            score: measured.map(|found| finalize::validation_score(&found)),
            files,
        })
    }

    fn training_state(&self) -> TrainingState {
        TrainingState {
            step: self.progress.step,
            steps_skipped: self.progress.steps_skipped,
            seed: self.config.seed,
            dataset: self.dataset.clone(),
            samples_seen: self.progress.samples_seen,
            samples_skipped: self.skipped_samples(),
        }
    }

    /// Tells of a checkpoint that became visible since.
    ///
    /// # Errors
    /// If another process took over.
    pub(in crate::train) fn poll_checkpoint(&mut self, reporter: &Reporter) -> Result<()> {
        self.writer.as_mut().map_or(Ok(()), |writer| {
            report_write_result(writer.poll_finished(), reporter)
        })
    }

    /// Waits until the checkpoint begun last is visible, to all ranks.
    ///
    /// # Errors
    /// If it could not be written.
    pub(in crate::train) fn finish_checkpoint(&mut self, reporter: &Reporter) -> Result<()> {
        if let Some(writer) = &mut self.writer {
            if let Some(written) = writer.finish_write()? {
                report_checkpoint(written, reporter);
            }

            self.stage.put(
                artifacts::METRICS_FILE,
                self.progress.history.to_jsonl().into(),
            )?;
        }

        Ok(self.rank_sync.world.barrier()?)
    }

    /// Waits for the last checkpoint and names the one that the stage ends with.
    ///
    /// # Errors
    /// If that cannot be written.
    pub(in crate::train) fn finish_run(mut self, reporter: &Reporter) -> Result<()> {
        self.finish_checkpoint(reporter)?;
        if self.writer.is_some() {
            finalize::write_final_checkpoint(&self.stage)?;
            finalize::write_report_page(&self.config)?;
        }

        // Who ends well knows that all do.
        self.rank_sync.world.barrier()?;
        reporter.update_report(|report| {
            report.activity = TrainerActivity::Done;
            report.eta_seconds = Some(0);
        });

        Ok(())
    }
}

/// A store that fails for a while costs a checkpoint, not the run.
fn report_write_result(
    written: Result<Option<WrittenCheckpoint>>,
    reporter: &Reporter,
) -> Result<()> {
    match written {
        Ok(Some(written)) => report_checkpoint(written, reporter),
        Ok(None) => {}
        Err(error @ Error::Fenced(_)) => return Err(error),
        Err(error) => tracing::warn!("a checkpoint was not written, the run goes on: {error}"),
    }

    Ok(())
}

fn report_checkpoint(written: WrittenCheckpoint, reporter: &Reporter) {
    let WrittenCheckpoint {
        step, uri, digest, ..
    } = written;

    let written_at = jiff::Timestamp::now().as_second();
    let saved = CheckpointReport {
        step: step as i64,
        uri,
        digest,
        written_at,
    };

    reporter.update_report(|report| {
        report.checkpoints.insert(0, saved);
        report.checkpoints.truncate(MAX_CHECKPOINTS);
    });
}
