//! Publishes a checkpoint in an order that a kill at any moment cannot spoil, then removes those
//! that nobody keeps. Never changes one that is published.

use std::thread::JoinHandle;
use std::time::Instant;

use super::manifest::{File, MANIFEST, Manifest};
use super::{Fence, Kept, Place, Snapshot, Written, list, places};
use crate::error::{Error, Result};
use cnclip_compute::digest::sha256;
use cnclip_data::store::Store;

/// Writes the checkpoints of a run, one at a time, while the run goes on.
#[derive(Debug)]
pub struct Writer {
    to: Target,
    running: Option<JoinHandle<Result<Written>>>,
}

#[derive(Clone, Debug)]
struct Target {
    /// The folder of all checkpoints.
    store: Store,
    fence: Fence,
    keep: usize,
}

impl Writer {
    /// Writes below `store`, as long as the fence holds; keeps the `keep` newest and the best.
    pub fn new(store: Store, fence: Fence, keep: usize) -> Self {
        Self {
            to: Target {
                store,
                fence,
                keep: keep.max(1),
            },
            running: None,
        }
    }

    /// Whether [`Writer::start`] would not wait.
    pub fn idle(&self) -> bool {
        self.running.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Begins to write a checkpoint and returns at once; gives what became of the one before, and
    /// waits for that if it is not done.
    ///
    /// # Errors
    /// If the one before could not be written. The new one is begun all the same, unless the fence
    /// is lost.
    pub fn start(&mut self, snapshot: Snapshot) -> Result<Option<Written>> {
        let before = self.finish();
        if !matches!(before, Err(Error::Fenced(_))) {
            let to = self.to.clone();
            let thread = std::thread::Builder::new().name("checkpoint".into());
            let running = thread.spawn(move || to.publish(snapshot));
            self.running = Some(running.map_err(|error| {
                Error::Bug(format!("no thread to write a checkpoint: {error}"))
            })?);
        }

        before
    }

    /// What became of the checkpoint begun last, if it is done.
    ///
    /// # Errors
    /// If it could not be written: the fence is lost, or the store failed.
    pub fn poll(&mut self) -> Result<Option<Written>> {
        if self.idle() { self.finish() } else { Ok(None) }
    }

    /// Waits for the checkpoint begun last.
    ///
    /// # Errors
    /// As [`Writer::poll`].
    pub fn finish(&mut self) -> Result<Option<Written>> {
        match self.running.take().map(JoinHandle::join) {
            None => Ok(None),
            Some(Ok(written)) => written.map(Some),
            Some(Err(_)) => Err(Error::Bug(
                "the thread that wrote a checkpoint panicked".into(),
            )),
        }
    }
}

impl Target {
    /// Files, then the manifest; the fence is looked at before either. The folder carries the term,
    /// so a process that was replaced and does not know it yet writes beside its successor, never
    /// over it.
    fn publish(&self, snapshot: Snapshot) -> Result<Written> {
        let started = Instant::now();
        let Snapshot { step, score, files } = snapshot;
        let place = Place {
            step,
            term: self.fence.term(),
        };

        let folder = self.store.join(&place.folder());
        self.fence.check()?;
        folder.delete(MANIFEST)?;
        let mut entries = Vec::with_capacity(files.len());
        let mut bytes = 0;

        for (name, content) in files {
            entries.push(File::new(&name, &content));
            bytes += content.len() as u64;
            folder.put(&name, content)?;
        }

        let manifest = Manifest::new(step, score, entries).to_bytes()?;
        let digest = sha256(&manifest);
        self.fence.check()?;
        folder.put(MANIFEST, manifest)?;

        if let Err(error) = self.prune(place) {
            tracing::warn!("old checkpoints are still there: {error}");
        }

        let uri = folder.uri().to_owned();
        let seconds = started.elapsed().as_secs_f64();
        Ok(Written {
            step,
            uri,
            digest,
            bytes,
            seconds,
        })
    }

    /// Removes checkpoints that are neither among the newest nor the best, and what killed writers
    /// of this term or an earlier one left behind.
    fn prune(&self, newest: Place) -> Result<()> {
        let published = list(&self.store)?;
        let kept = kept(&published, self.keep);
        for place in places(&self.store)? {
            if place != newest && !kept.contains(&place) && place.term <= newest.term {
                self.remove(place)?;
            }
        }

        Ok(())
    }

    /// The manifest goes first, so that what is left is never taken for a checkpoint.
    fn remove(&self, place: Place) -> Result<()> {
        let folder = self.store.join(&place.folder());
        folder.delete(MANIFEST)?;
        for entry in folder.list()? {
            folder.delete(&entry.name)?;
        }

        Ok(())
    }
}

/// The `keep` newest of these, newest first, and the best.
fn kept(published: &[Kept], keep: usize) -> Vec<Place> {
    let newest = published.iter().take(keep);
    let scored = published.iter().filter(|kept| kept.score.is_some());
    // Of equals the newest, which comes first.
    let best = scored
        .rev()
        .max_by(|a, b| a.score.partial_cmp(&b.score).unwrap_or(a.step.cmp(&b.step)));

    newest.chain(best).map(|kept| kept.place).collect()
}
