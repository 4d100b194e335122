//! When a run takes a snapshot of its state, what is in it, and for what it waits. Writes nothing itself.

use std::time::Instant;

use super::TrainingRun;
use crate::checkpoint::{
    CONFIG_FILE, CheckpointSnapshot, HISTORY_FILE, MOMENTS_FILE, STATE_FILE,
    UNAVERAGED_WEIGHTS_FILE, WEIGHTS_FILE,
};
use crate::error::{Error, Result};
use crate::progress::Reporter;
use crate::train::watchdog::RunPhase;

impl TrainingRun {
    /// Whether either interval has passed since the last snapshot. One that was put off stays due.
    pub(in crate::train) fn is_checkpoint_due(&self) -> bool {
        let policy = &self.config().checkpoint;
        let every_steps = policy.every_steps.max(1) as u64;
        let steps = self.progress.step() / every_steps > self.last_snapshot_step / every_steps;
        let seconds = self.last_snapshot_at.elapsed().as_secs() >= policy.every_seconds as u64;

        steps || seconds
    }

    /// Begins to write a checkpoint; the run goes on meanwhile.
    ///
    /// # Errors
    /// If another process took over, the state cannot be serialized, or too many checkpoints failed.
    pub(in crate::train) fn save_checkpoint(&mut self, reporter: &Reporter) -> Result<()> {
        // A snapshot copies the whole model out of the device, which only the writer needs.
        if !self.saver.is_writer() {
            return Ok(());
        }

        self.watchdog.enter(RunPhase::Save, self.progress.step());
        // One copy of the model at a time: memory is planned for no more.
        self.saver.finish_write(reporter)?;
        let snapshot = self.take_snapshot()?;
        self.last_snapshot_at = Instant::now();
        self.last_snapshot_step = snapshot.step;
        self.saver.save(snapshot, reporter)
    }

    /// As [`Self::save_checkpoint`], for a run that is asked to stop: an older state that is still being written does not
    /// keep this one waiting.
    ///
    /// # Errors
    /// As [`Self::save_checkpoint`].
    pub(in crate::train) fn save_last_checkpoint(&mut self, reporter: &Reporter) -> Result<()> {
        self.watchdog.enter(RunPhase::Save, self.progress.step());
        self.saver.make_way_for(self.progress.step(), reporter)?;
        self.save_checkpoint(reporter)
    }

    /// As [`Self::save_checkpoint`], but puts it off while one is written: training does not wait for a store.
    ///
    /// # Errors
    /// As [`Self::save_checkpoint`].
    pub(in crate::train) fn save_checkpoint_if_idle(&mut self, reporter: &Reporter) -> Result<()> {
        match self.saver.is_idle() {
            true => self.save_checkpoint(reporter),
            false => Ok(()),
        }
    }

    /// Saves the state of a run that ends because of a stop or of another worker: between two steps, and within one
    /// until its ranks have agreed on its gradients, the state is whole. What cannot be saved is logged.
    pub(in crate::train) fn save_before_exit(&mut self, error: &Error, reporter: &Reporter) {
        let is_whole = matches!(error, Error::Interrupted { .. } | Error::WorkerLost(_));
        if !is_whole || !self.saver.is_writer() {
            return;
        }

        self.stepper.discard_unfinished_step();
        let is_stopped = matches!(error, Error::Interrupted { .. });
        if let Err(error) = self.save_unless_written(is_stopped, reporter) {
            tracing::warn!("the state was not saved before the end: {error}");
        }
    }

    fn save_unless_written(&mut self, is_stopped: bool, reporter: &Reporter) -> Result<()> {
        // The one that is being written may be of this step, and may fail.
        match is_stopped {
            true => self.saver.make_way_for(self.progress.step(), reporter)?,
            false => self.saver.finish_write(reporter)?,
        }

        if self.saver.last_written() == Some(self.progress.step()) {
            return Ok(());
        }

        self.save_checkpoint(reporter)?;
        self.saver.finish(self.progress.history(), reporter)
    }

    /// Copies all that a later attempt needs: the next step may change the model while files are written.
    fn take_snapshot(&mut self) -> Result<CheckpointSnapshot> {
        let model = self.stepper.serialize()?;
        let seed = self.config().seed;
        let skipped = self.skipped_samples();
        let state = self.progress.to_state(seed, &self.dataset_digest, skipped);

        let mut files = vec![
            (WEIGHTS_FILE, model.weights),
            (MOMENTS_FILE, model.moments),
            (STATE_FILE, to_json(&state)?),
            (CONFIG_FILE, to_json(self.config())?),
            (
                HISTORY_FILE,
                self.progress.history().to_jsonl().into_bytes(),
            ),
        ];

        if let Some(unaveraged) = model.unaveraged {
            files.push((UNAVERAGED_WEIGHTS_FILE, unaveraged));
        }

        // Only recall of these very weights ranks them among other checkpoints.
        let validation = self.progress.current_validation();
        let files = files
            .into_iter()
            .map(|(name, bytes)| (name.to_owned(), bytes.into()));

        Ok(CheckpointSnapshot {
            step: self.progress.step(),
            score: validation.map(|validation| validation.mean_recall()),
            files: files.collect(),
        })
    }

    /// Reports a checkpoint that became visible since.
    ///
    /// # Errors
    /// If another process took over.
    pub(in crate::train) fn poll_checkpoint(&mut self, reporter: &Reporter) -> Result<()> {
        self.saver.poll(reporter)
    }

    /// Waits until the checkpoint begun last is visible, to all ranks.
    ///
    /// # Errors
    /// If it could not be written, or a rank is lost.
    pub(in crate::train) fn finish_checkpoint(&mut self, reporter: &Reporter) -> Result<()> {
        self.watchdog.enter(RunPhase::Save, self.progress.step());
        self.saver.finish(self.progress.history(), reporter)?;
        // All wait for rank 0's upload: a worker that ended earlier would be taken for lost.
        Ok(self.rank_sync.communicator().barrier()?)
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::Bug(format!("a state cannot be written as JSON: {error}")))
}
