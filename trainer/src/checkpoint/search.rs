//! Goes through the published checkpoints, newest first, and remembers why those before could not be used.

use std::vec;

use super::{Checkpoint, CheckpointId, list_published_ids};
use crate::error::{Error, Result};
use cnclip_data::store::Store;

/// The published checkpoints below a store, newest first.
#[derive(Debug)]
pub struct CheckpointSearch {
    store: Store,
    remaining: vec::IntoIter<CheckpointId>,
    damage: Vec<String>,
}

impl CheckpointSearch {
    /// Lists the checkpoints; opens none.
    ///
    /// # Errors
    /// If the store fails.
    pub fn start(store: &Store) -> Result<Self> {
        Ok(Self {
            store: store.clone(),
            remaining: list_published_ids(store)?.into_iter(),
            damage: Vec::new(),
        })
    }

    /// The next checkpoint whose small files are whole; one whose files are not is logged and skipped. `None` if there
    /// is no checkpoint at all.
    ///
    /// # Errors
    /// If there are checkpoints and none could be used; if the store fails.
    pub fn next_checkpoint(&mut self, in_memory: &[&str]) -> Result<Option<Checkpoint>> {
        while let Some(id) = self.remaining.next() {
            let folder = self.store.join_prefix(&id.folder_name());
            match Checkpoint::open(&folder, in_memory) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => self.skip_damaged(error)?,
            }
        }

        if self.damage.is_empty() {
            return Ok(None);
        }

        Err(Error::Data(format!(
            "no checkpoint of {} can be used: {}. Restore one of them, or delete them all to begin \
             again.",
            self.store.uri(),
            self.damage.join("; ")
        )))
    }

    /// Notes why the checkpoint given last cannot be used, so that the one before it is.
    ///
    /// # Errors
    /// The error itself, unless it says that the checkpoint is damaged.
    pub fn skip_damaged(&mut self, error: Error) -> Result<()> {
        // Damage makes an older checkpoint the newest; a store that does not answer must not, or an outage of seconds
        // would cost hours of steps.
        if !matches!(error, Error::Data(_) | Error::Config(_)) {
            return Err(error);
        }

        tracing::warn!("checkpoint skipped: {error}");
        self.damage.push(error.to_string());
        Ok(())
    }
}
