//! Saves the state of a run so that a kill at any moment costs only the steps since, and finds the
//! newest state that is whole. Never decides when to save, nor what the files mean.
//!
//! ```text
//! <checkpoints>/<step>-<term>/weights.safetensors, moments.safetensors, state.json …
//! <checkpoints>/<step>-<term>/manifest.json     sizes and digests, written last
//! ```

mod fence;
mod manifest;
mod search;
mod upload;
mod writer;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use fence::{Fence, FenceClaim};
pub use search::CheckpointSearch;
pub use writer::CheckpointWriter;

use crate::error::{Error, Result};
use crate::weights::Weights;
use cnclip_data::store::Store;
use manifest::{MANIFEST_FILE, Manifest, ManifestEntry};

/// The model, under the reference's names: the average, where weights are averaged.
pub const WEIGHTS_FILE: &str = "weights.safetensors";
/// The weights that go on training, where those of the model are their average.
pub const UNAVERAGED_WEIGHTS_FILE: &str = "unaveraged.safetensors";
/// The optimizer's moments.
pub const MOMENTS_FILE: &str = "moments.safetensors";
/// A [`TrainingState`] as JSON.
pub const STATE_FILE: &str = "state.json";

/// The whole configuration of the run, as JSON.
pub const CONFIG_FILE: &str = "config.json";
/// The curves so far, one JSON object a line.
pub const HISTORY_FILE: &str = "metrics.jsonl";

/// Everything a run needs to go on besides weights and moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingState {
    /// Steps completed, skipped ones among them.
    pub step: u64,
    /// Steps without a finite loss and gradient, which changed nothing.
    #[serde(default)]
    pub steps_skipped: u64,
    /// The seed of the run.
    pub seed: u64,
    /// The digest of the data set.
    pub dataset: String,
    /// Pairs trained on.
    pub samples_seen: u64,
    /// Pairs that could not be used.
    pub samples_skipped: u64,
    /// How the seeds of order, augmentation and dropout were made; absent in checkpoints of the first release.
    #[serde(default)]
    pub seeding: Seeding,
    /// A validation that was due after this step, which the run was stopped before.
    #[serde(default, skip_serializing_if = "is_false")]
    pub validation_owed: bool,
}

/// Of what the seeds of sample order, augmentation and dropout are made. A run goes on with the one that it began with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seeding {
    /// The seed of the run alone: stages on one data set draw the same batches.
    #[default]
    Run,
    /// The seed of the run and the name of the stage.
    Stage,
}

impl Seeding {
    /// The seed of a stage's order, augmentation and dropout.
    pub fn stage_seed(self, seed: u64, stage: &str) -> u64 {
        match self {
            Self::Run => seed,
            Self::Stage => {
                let digest = Sha256::digest(format!("{seed} {stage}"));
                let (first, _) = digest.split_first_chunk().unwrap_or((&[0; 8], &[]));
                u64::from_le_bytes(*first)
            }
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A state on its way into the store.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointSnapshot {
    /// Steps completed.
    pub step: u64,
    /// What validation gave it, if it was validated: more is better.
    pub score: Option<f64>,
    /// Names and contents of its files.
    pub files: Vec<(String, Bytes)>,
}

/// A checkpoint that became visible.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenCheckpoint {
    /// Steps completed.
    pub step: u64,
    /// Where it is.
    pub uri: String,
    /// SHA-256 of its manifest.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
    /// How long it took to write.
    pub seconds: f64,
}

/// A published checkpoint. Its files are proven to be what was written when they are read.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Steps completed.
    pub step: u64,
    /// Where it is.
    pub uri: String,
    /// SHA-256 of its manifest.
    pub digest: String,
    /// What validation gave it, if it was validated.
    pub score: Option<f64>,
    folder: Store,
    files: Vec<ManifestEntry>,
    /// Small files that were read when it was opened.
    in_memory: BTreeMap<String, Bytes>,
}

impl Checkpoint {
    /// The checkpoint in a folder, with the small files named `in_memory` read and proven.
    ///
    /// # Errors
    /// If it is not whole, lacks such a file, or one is not what was written.
    pub fn open(folder: &Store, in_memory: &[&str]) -> Result<Self> {
        let (
            Manifest {
                step, score, files, ..
            },
            digest,
        ) = Manifest::read_from(folder)?;

        let mut checkpoint = Self {
            step,
            uri: folder.uri().to_owned(),
            digest,
            score,
            folder: folder.clone(),
            files,
            in_memory: BTreeMap::new(),
        };

        for name in in_memory {
            let content = checkpoint.read_file(name)?;
            checkpoint.in_memory.insert((*name).to_owned(), content);
        }

        Ok(checkpoint)
    }

    /// The newest checkpoint below `store` of which the files named `wanted` are whole; one that is not is logged and
    /// skipped. `None` if there is none at all.
    ///
    /// # Errors
    /// If there are checkpoints and none is whole; if the store fails.
    pub fn find_newest(store: &Store, wanted: &[&str]) -> Result<Option<Self>> {
        let mut search = CheckpointSearch::start(store)?;
        while let Some(checkpoint) = search.next_checkpoint(&[])? {
            match checkpoint.verify_files(wanted) {
                Ok(()) => return Ok(Some(checkpoint)),
                Err(error) => search.skip_damaged(error)?,
            }
        }

        Ok(None)
    }

    /// Reads files to prove that they are what was written.
    ///
    /// # Errors
    /// If one is not, or is not there.
    pub fn verify_files(&self, names: &[&str]) -> Result<()> {
        let mut files = names.iter().map(|name| self.find_file(name));
        files.try_for_each(|file| file?.verify_content(&self.folder))
    }

    /// A small file, proven as it is read.
    ///
    /// # Errors
    /// If it is not there, or not what was written.
    pub fn read_file(&self, name: &str) -> Result<Bytes> {
        match self.in_memory.get(name) {
            Some(content) => Ok(content.clone()),
            None => self.find_file(name)?.read_verified(&self.folder),
        }
    }

    /// The tensors of a file. Their values stay there, and are proven when they are loaded.
    ///
    /// # Errors
    /// If it holds none, or is gone or cut off.
    pub fn open_weights(&self, name: &str) -> Result<Weights> {
        let file = self.find_file(name)?;
        Weights::open_expected(&self.folder, &file.name, file.expected())
    }

    /// SHA-256 of a file, as it was written down.
    ///
    /// # Errors
    /// If it is not there.
    pub fn file_sha256(&self, name: &str) -> Result<String> {
        Ok(self.find_file(name)?.sha256.clone())
    }

    fn find_file(&self, name: &str) -> Result<&ManifestEntry> {
        let missing = || Error::Data(format!("{} holds no {name}", self.uri));
        self.files
            .iter()
            .find(|file| file.name == name)
            .ok_or_else(missing)
    }

    /// The state it holds.
    ///
    /// # Errors
    /// If `state.json` is not one.
    pub fn read_state(&self) -> Result<TrainingState> {
        serde_json::from_slice(&self.read_file(STATE_FILE)?).map_err(|error| {
            Error::Data(format!(
                "{}/{STATE_FILE} is no state of a run: {error}",
                self.uri
            ))
        })
    }
}

/// Which folder a checkpoint is in. The derived order is that of age: by step, then by term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct CheckpointId {
    step: u64,
    /// The claim of the process that wrote it: no two write to one place.
    term: u64,
}

impl CheckpointId {
    fn folder_name(self) -> String {
        // Zero-padded: object stores list by name, so steps come in their order.
        format!("{:08}-{}", self.step, self.term)
    }

    fn parse(folder: &str) -> Option<Self> {
        let (step, term) = folder.split_once('-')?;
        Some(Self {
            step: step.parse().ok()?,
            term: term.parse().ok()?,
        })
    }
}

/// A published checkpoint that is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ListedCheckpoint {
    /// Steps completed.
    pub step: u64,
    /// What validation gave it, if it was validated.
    pub score: Option<f64>,
    id: CheckpointId,
}

impl ListedCheckpoint {
    /// Its folder below the store that was listed.
    pub fn folder_name(&self) -> String {
        self.id.folder_name()
    }
}

/// The published checkpoints below a store, newest first; their files are not looked at.
///
/// # Errors
/// If the store fails.
pub fn list_checkpoints(store: &Store) -> Result<Vec<ListedCheckpoint>> {
    let read =
        |place: CheckpointId| match Manifest::read_from(&store.join_prefix(&place.folder_name())) {
            Ok((manifest, _)) => Ok(Some(ListedCheckpoint {
                step: place.step,
                score: manifest.score,
                id: place,
            })),
            // Removed by retention since the listing, or damaged: no checkpoint either way.
            Err(Error::Data(_) | Error::Config(_)) => Ok(None),
            Err(error) => Err(error),
        };

    list_published_ids(store)?
        .into_iter()
        .filter_map(|place| read(place).transpose())
        .collect()
}

/// Folders that hold a manifest, newest first.
fn list_published_ids(store: &Store) -> Result<Vec<CheckpointId>> {
    let names = store.list_objects()?;
    let whole = names
        .iter()
        .filter_map(|entry| match entry.name.split_once('/')? {
            // Listed by the manifest, not by the folder: object stores have no folders, and files
            // without a manifest are an upload that was never completed.
            (folder, MANIFEST_FILE) => CheckpointId::parse(folder),
            _ => None,
        });

    let mut places: Vec<_> = whole.collect();
    places.sort_unstable_by(|a, b| b.cmp(a));
    Ok(places)
}

/// Folders that hold anything, whole or not.
fn list_all_ids(store: &Store) -> Result<Vec<CheckpointId>> {
    let names = store.list_objects()?;
    let all = names
        .iter()
        .filter_map(|entry| CheckpointId::parse(entry.name.split_once('/')?.0));

    let mut places: Vec<_> = all.collect();
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

#[cfg(test)]
mod tests;
