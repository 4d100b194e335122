//! What a run writes: checkpoints while it goes on, and what is there when it ends.

use cnclip_crds::artifacts;
use cnclip_crds::report::{Activity, CHECKPOINTS, CheckpointReport};

use super::Run;
use crate::checkpoint::{
    CONFIG, HISTORY, MOMENTS, STATE, Snapshot, State, UNAVERAGED, WEIGHTS, Written,
};
use crate::error::{Error, Result};
use crate::report::Reporter;
use crate::train::ending;
use crate::weights::{write_moments, write_safetensors};

impl Run {
    /// Begins to write a checkpoint; the run goes on meanwhile.
    ///
    /// # Errors
    /// If another process took over, or the state cannot be written down.
    pub(in crate::train) fn save(&mut self, reporter: &Reporter) -> Result<()> {
        if self.writer.is_none() {
            return Ok(());
        }

        let snapshot = self.snapshot()?;
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };

        told(writer.start(snapshot), reporter)
    }

    fn snapshot(&mut self) -> Result<Snapshot> {
        let json = |what: serde_json::Result<Vec<u8>>| {
            what.map_err(|error| Error::Bug(format!("a state cannot be written as JSON: {error}")))
        };

        let step = self.progress.step;
        let measured = self
            .progress
            .validation
            .filter(|found| found.step == step as i64);

        let unaveraged = self
            .average
            .as_ref()
            .map(|_| write_safetensors(&self.params));

        self.swap_average();
        let weights = write_safetensors(&self.params);
        self.swap_average();
        let moments = write_moments(&self.params, &self.adamw);
        // What was read back of a device after a fault is not what it held.
        self.params.memory().check()?;
        let files = [
            (WEIGHTS, weights),
            (MOMENTS, moments),
            (STATE, json(serde_json::to_vec(&self.state()))?),
            (CONFIG, json(serde_json::to_vec(&self.config))?),
            (HISTORY, self.progress.history.to_jsonl().into_bytes()),
        ];

        let files = files
            .into_iter()
            .chain(unaveraged.map(|bytes| (UNAVERAGED, bytes)));

        let files = files
            .map(|(name, bytes)| (name.to_owned(), bytes.into()))
            .collect();

        Ok(Snapshot {
            step,
            score: measured.map(|found| ending::score(&found)),
            files,
        })
    }

    fn state(&self) -> State {
        State {
            step: self.progress.step,
            steps_skipped: self.progress.steps_skipped,
            seed: self.config.seed,
            dataset: self.dataset.clone(),
            samples_seen: self.progress.samples_seen,
            samples_skipped: self.skipped(),
        }
    }

    /// Tells of a checkpoint that became visible since.
    ///
    /// # Errors
    /// If another process took over.
    pub(in crate::train) fn look_after_checkpoint(&mut self, reporter: &Reporter) -> Result<()> {
        self.writer
            .as_mut()
            .map_or(Ok(()), |writer| told(writer.poll(), reporter))
    }

    /// Waits until the checkpoint begun last is visible, to all ranks.
    ///
    /// # Errors
    /// If it could not be written.
    pub(in crate::train) fn finish_saving(&mut self, reporter: &Reporter) -> Result<()> {
        if let Some(writer) = &mut self.writer {
            if let Some(written) = writer.finish()? {
                tell(written, reporter);
            }

            self.stage
                .put(artifacts::METRICS, self.progress.history.to_jsonl().into())?;
        }

        Ok(self.together.world.meet()?)
    }

    /// Waits for the last checkpoint and names the one that the stage ends with.
    ///
    /// # Errors
    /// If that cannot be written.
    pub(in crate::train) fn end(mut self, reporter: &Reporter) -> Result<()> {
        self.finish_saving(reporter)?;
        if self.writer.is_some() {
            ending::write(&self.stage)?;
            ending::write_page(&self.config)?;
        }

        // Who ends well knows that all do.
        self.together.world.meet()?;
        reporter.update(|report| {
            report.activity = Activity::Done;
            report.eta_seconds = Some(0);
        });

        Ok(())
    }
}

/// A store that fails for a while costs a checkpoint, not the run.
fn told(written: Result<Option<Written>>, reporter: &Reporter) -> Result<()> {
    match written {
        Ok(Some(written)) => tell(written, reporter),
        Ok(None) => {}
        Err(error @ Error::Fenced(_)) => return Err(error),
        Err(error) => tracing::warn!("a checkpoint was not written, the run goes on: {error}"),
    }

    Ok(())
}

fn tell(written: Written, reporter: &Reporter) {
    let Written {
        step, uri, digest, ..
    } = written;

    let written_at = jiff::Timestamp::now().as_second();
    let saved = CheckpointReport {
        step: step as i64,
        uri,
        digest,
        written_at,
    };

    reporter.update(|report| {
        report.checkpoints.insert(0, saved);
        report.checkpoints.truncate(CHECKPOINTS);
    });
}
