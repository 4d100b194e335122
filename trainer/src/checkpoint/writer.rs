//! Publishes a checkpoint in an order that a kill at any moment cannot corrupt, then removes those that
//! retention does not keep. Never changes one that is published.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::manifest::{MANIFEST_FILE, Manifest, ManifestEntry};
use super::upload::{CheckpointUpload, is_worth_abandoning};
use super::{
    CheckpointId, CheckpointSnapshot, Fence, ListedCheckpoint, WrittenCheckpoint, list_all_ids,
    list_checkpoints, list_published_ids,
};
use crate::error::{Error, Result};
use crate::threads::spawn_named;
use cnclip_compute::digest::sha256;
use cnclip_data::store::{Cancellation, Store};

/// Writes the checkpoints of a run, one at a time, while the run goes on.
#[derive(Debug)]
pub struct CheckpointWriter {
    target: CheckpointTarget,
    in_progress: Option<CheckpointUpload>,
    /// How long the last one took.
    last_duration: Option<Duration>,
}

#[derive(Clone, Debug)]
struct CheckpointTarget {
    /// The folder of all checkpoints.
    store: Store,
    fence: Fence,
    keep: usize,
}

impl CheckpointWriter {
    /// Writes below `store`, as long as the fence holds; keeps the `keep` newest and the best.
    pub fn new(store: Store, fence: Fence, keep: usize) -> Self {
        Self {
            target: CheckpointTarget {
                store,
                fence,
                // With 0 retention would remove the checkpoint that was just published.
                keep: keep.max(1),
            },
            in_progress: None,
            last_duration: None,
        }
    }

    /// For what is written next to the checkpoints: whether this process may still write there.
    ///
    /// # Errors
    /// If another process took over; if the store fails.
    pub fn ensure_fence_held(&self) -> Result<()> {
        self.target.fence.ensure_held()
    }

    /// Whether [`CheckpointWriter::start_write`] would not wait.
    pub fn is_idle(&self) -> bool {
        self.in_progress
            .as_ref()
            .is_none_or(CheckpointUpload::is_finished)
    }

    /// Begins to write a checkpoint and returns at once; gives what became of the one before, and
    /// waits for that if it is not done.
    ///
    /// # Errors
    /// If the one before could not be written. The new one is begun all the same, unless the fence
    /// is lost.
    pub fn start_write(
        &mut self,
        snapshot: CheckpointSnapshot,
    ) -> Result<Option<WrittenCheckpoint>> {
        // One upload at a time: two would hold two copies of the model in memory.
        let before = self.finish_write();
        if !matches!(before, Err(Error::Fenced(_))) {
            self.in_progress = Some(self.target.start_upload(snapshot)?);
        }

        before
    }

    /// What became of the checkpoint begun last, if it is done.
    ///
    /// # Errors
    /// If it could not be written: the fence is lost, or the store failed.
    pub fn poll_finished(&mut self) -> Result<Option<WrittenCheckpoint>> {
        if self.is_idle() {
            self.finish_write()
        } else {
            Ok(None)
        }
    }

    /// Waits for the checkpoint begun last.
    ///
    /// # Errors
    /// As [`CheckpointWriter::poll_finished`].
    pub fn finish_write(&mut self) -> Result<Option<WrittenCheckpoint>> {
        let Some(upload) = self.in_progress.take() else {
            return Ok(None);
        };

        let written = upload.join()?;
        self.last_duration = Some(Duration::from_secs_f64(written.seconds));
        Ok(Some(written))
    }

    /// Makes way for the state after `newest` steps, which has to be saved within `grace`: an older one that is being
    /// written is abandoned if there is no time for both, and waited for otherwise. What an abandoned one left behind is
    /// no checkpoint, and is removed after the next.
    ///
    /// # Errors
    /// As [`CheckpointWriter::poll_finished`], for one that was waited for.
    pub fn make_way_for(
        &mut self,
        newest: u64,
        grace: Duration,
    ) -> Result<Option<WrittenCheckpoint>> {
        let usual = self.last_duration;
        let is_abandoned = |upload: &mut CheckpointUpload| {
            upload.step < newest
                && !upload.is_finished()
                && is_worth_abandoning(upload.began.elapsed(), usual, grace)
        };

        let Some(upload) = self.in_progress.take_if(is_abandoned) else {
            return self.finish_write();
        };

        let step = upload.step;
        upload.cancellation.cancel();
        // Its snapshot is in memory until the thread ends.
        match upload.join() {
            // It became visible at the last moment.
            Ok(written) => Ok(Some(written)),
            Err(error @ Error::Fenced(_)) => Err(error),
            Err(_) => {
                tracing::info!(step, newest, "abandoned a checkpoint for the newest state");
                Ok(None)
            }
        }
    }
}

impl CheckpointTarget {
    fn start_upload(&self, snapshot: CheckpointSnapshot) -> Result<CheckpointUpload> {
        let cancellation = Cancellation::default();
        let step = snapshot.step;
        let to = Self {
            store: self.store.with_cancellation(&cancellation),
            fence: self.fence.with_cancellation(&cancellation),
            keep: self.keep,
        };

        let thread = spawn_named("checkpoint", move || to.publish_checkpoint(snapshot));
        let thread = thread
            .map_err(|error| Error::Bug(format!("no thread to write a checkpoint: {error}")))?;

        Ok(CheckpointUpload {
            step,
            began: Instant::now(),
            cancellation,
            thread,
        })
    }

    /// Files, then the manifest; the fence is checked before either. The folder carries the term, so a
    /// process that was replaced and has not noticed yet writes next to its successor, never over it.
    fn publish_checkpoint(&self, snapshot: CheckpointSnapshot) -> Result<WrittenCheckpoint> {
        let started = Instant::now();
        let CheckpointSnapshot { step, score, files } = snapshot;
        let place = CheckpointId {
            step,
            term: self.fence.term(),
        };

        let folder = self.store.join_prefix(&place.folder_name());
        self.fence.ensure_held()?;
        // Should this place have been written before, it is no checkpoint while its files are replaced.
        folder.delete(MANIFEST_FILE)?;
        let bytes = files.iter().map(|(_, content)| content.len() as u64).sum();
        let entries = write_files(&folder, files)?;

        // Written last: its existence is what makes the folder a checkpoint, so a kill before this line
        // leaves a folder that no reader takes for one.
        let manifest = Manifest::new(step, score, entries).to_bytes()?;
        let digest = sha256(&manifest);
        // Again, for gigabytes took minutes: a successor that claimed meanwhile chose its checkpoint
        // without this one.
        self.fence.ensure_held()?;
        folder.put(MANIFEST_FILE, manifest)?;

        // The new checkpoint is visible already: what is not removed costs storage, not the run.
        if let Err(error) = self.prune_checkpoints(place) {
            tracing::warn!("old checkpoints are still there: {error}");
        }

        let uri = folder.uri().to_owned();
        let seconds = started.elapsed().as_secs_f64();
        Ok(WrittenCheckpoint {
            step,
            uri,
            digest,
            bytes,
            seconds,
        })
    }

    /// Removes checkpoints that are neither among the newest nor the best, and what killed writers
    /// of this term or an earlier one left behind.
    fn prune_checkpoints(&self, newest: CheckpointId) -> Result<()> {
        let published = list_checkpoints(&self.store)?;
        let kept = select_retained(&published, self.keep);
        // Whatever has a manifest that cannot be read may be whole: of a newer version, which comes back.
        let mut unreadable = list_published_ids(&self.store)?;
        unreadable.retain(|place| published.iter().all(|found| found.id != *place));

        for place in list_all_ids(&self.store)? {
            let is_kept = place == newest || kept.contains(&place) || unreadable.contains(&place);
            // A higher term is a successor's, which may be writing there now.
            if !is_kept && place.term <= newest.term {
                self.remove_checkpoint(place)?;
            }
        }

        Ok(())
    }

    /// The manifest goes first, so that what is left is never taken for a checkpoint.
    fn remove_checkpoint(&self, place: CheckpointId) -> Result<()> {
        let folder = self.store.join_prefix(&place.folder_name());
        folder.delete(MANIFEST_FILE)?;
        Ok(self.store.delete_folder(&place.folder_name())?)
    }
}

/// Writes the files of a checkpoint side by side: one alone would use a fraction of the network.
fn write_files(folder: &Store, files: Vec<(String, Bytes)>) -> Result<Vec<ManifestEntry>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .into_iter()
            .map(|(name, content)| {
                scope.spawn(move || {
                    // Hashed in memory, not read back, so that damage on the way is found by readers.
                    let entry = ManifestEntry::new(&name, &content);
                    folder.put(&name, content).map(|()| entry)
                })
            })
            .collect();

        // All are joined, whatever became of the first: the scope waits for them anyway.
        let entries = threads.into_iter().map(|thread| match thread.join() {
            Ok(entry) => Ok(entry?),
            Err(_) => Err(Error::Bug("a thread that wrote a file panicked".into())),
        });

        entries.collect()
    })
}

/// The `keep` newest of these, newest first, and the best.
fn select_retained(published: &[ListedCheckpoint], keep: usize) -> Vec<CheckpointId> {
    let newest = published.iter().take(keep);
    let scored = published.iter().filter(|kept| kept.score.is_some());
    // Of equals the newest, which comes first.
    let best = scored
        .rev()
        .max_by(|a, b| a.score.partial_cmp(&b.score).unwrap_or(a.step.cmp(&b.step)));

    newest.chain(best).map(|kept| kept.id).collect()
}
