//! Finds what a user named by URI: weights in any place and layout we can read, and the vocabulary.
//! Never changes a place it looks at.

use std::path::Path;

use bytes::Bytes;
use cnclip_crds::artifacts::{CHECKPOINTS_FOLDER, FINAL_FILE, MANIFEST_FILE};
use cnclip_crds::model::{ImageTower, ModelConfig};
use cnclip_crds::names;
use cnclip_crds::trainer_config::{PinnedFile, TrainConfig};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{CONFIG_FILE, Checkpoint, WEIGHTS_FILE};
use crate::error::{Error, Result};
use crate::hub::{self, FetchedWeights, HubClient};
use crate::weights::{DetectedTowers, INDEX_SUFFIX, Weights};
use cnclip_data::json::parse_json;
use cnclip_data::store::Store;
use cnclip_data::tokenizer::{Tokenizer, Vocabulary};

/// Tokens of the longest text of the published models.
pub const DEFAULT_CONTEXT_LENGTH: usize = 52;

/// What weights are called in a folder of Hugging Face's, the first that is there.
const WEIGHTS_FILE_NAMES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// What the names of such files end with.
const WEIGHTS_ENDINGS: [&str; 5] = [".safetensors", ".pt", ".pth", ".bin", INDEX_SUFFIX];

/// Weights, and what is known of their origin.
#[derive(Debug)]
pub struct ResolvedWeights {
    /// Where they were in the end.
    pub uri: String,
    /// SHA-256 of the manifest of their checkpoint.
    pub digest: Option<String>,
    /// SHA-256 of their file, as that manifest says it.
    pub sha256: Option<String>,
    /// Steps completed when their checkpoint was written.
    pub step: Option<u64>,
    /// The configuration they were trained with, if their folder has one.
    pub config: Option<TrainConfig>,
    /// Their architecture, as detected from names and shapes.
    pub towers: DetectedTowers,
    /// The weights.
    pub tensors: Weights,
}

impl ResolvedWeights {
    /// The model that these weights are of: that of their training configuration, or else the detected one.
    ///
    /// # Errors
    /// If they are not of a whole model, or of one that cannot be built.
    pub fn model_config(&self) -> Result<ModelConfig> {
        // The configuration first: shapes do not determine the number of heads, nor dropout.
        let trained = self.config.as_ref().map(|config| config.model.clone());
        let model = trained.or_else(|| self.towers.model_config()).ok_or_else(|| {
            Error::Config(format!(
                "{} is no whole model: it holds {}. Name weights with an image tower, a text tower \
                 and the projections of both.",
                self.uri, self.towers
            ))
        })?;

        match model.validation_error() {
            None => Ok(model),
            Some(problem) => Err(Error::Data(format!("{}: {problem}", self.uri))),
        }
    }

    /// The image tower that these weights are of and the length of its features, for what needs no
    /// more of a model.
    ///
    /// # Errors
    /// If there is none.
    pub fn image_tower(&self) -> Result<(ImageTower, i32)> {
        let trained = self.config.as_ref().map(|config| &config.model);
        let trained = trained.map(|model| (model.image.clone(), model.embed_dim));
        let detected = || self.towers.image.clone().zip(self.towers.embed_dim);
        trained.or_else(detected).ok_or_else(|| {
            let uri = &self.uri;
            let towers = &self.towers;
            Error::Config(format!(
                "{uri} holds no image tower with its projection, but {towers}. Name weights that do."
            ))
        })
    }
}

/// Which checkpoint a stage ended with; the content of `final.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinalCheckpoint {
    /// Its folder, below the stage's prefix.
    pub checkpoint: String,
    /// Steps completed.
    pub step: u64,
}

/// The weights at a URI, to be loaded: a `.safetensors`, `.pt`, `.pth` or `.bin` file, the index of several, a
/// checkpoint, the prefix of a stage (the checkpoint it ended with, or else its newest), a folder as
/// Hugging Face lays it out, or a repository of its hub or a file in one.
///
/// # Errors
/// If there is nothing of the kind, or what is there is damaged; the message lists what was tried.
///
/// # Guarantees
/// Those of a checkpoint are loaded as they were written, or not at all: their file is proven while it is loaded.
pub fn resolve_weights(uri: &str) -> Result<ResolvedWeights> {
    resolve_uri(uri, &[WEIGHTS_FILE])
}

/// Whether a URI has the form of a checkpoint's, and nothing is there: it was deleted, or never written.
pub fn is_missing_checkpoint(uri: &str) -> bool {
    let parent = uri
        .trim_end_matches('/')
        .rsplit_once('/')
        .map(|(parent, _)| parent);

    let is_checkpoint = parent.is_some_and(|parent| parent.ends_with(CHECKPOINTS_FOLDER));
    let manifest = || Store::open(uri).and_then(|store| store.get_if_exists(MANIFEST_FILE));
    // Only a store that answers proves an absence; an outage must not be taken for a deletion.
    is_checkpoint && matches!(manifest(), Ok(None))
}

/// As [`resolve_weights`], but of a stage at work the newest checkpoint is taken without a look at its weights: to
/// inspect names and shapes without reading gigabytes.
///
/// # Errors
/// As [`resolve_weights`].
pub fn resolve_unverified(uri: &str) -> Result<ResolvedWeights> {
    resolve_uri(uri, &[])
}

fn resolve_uri(uri: &str, wanted: &[&str]) -> Result<ResolvedWeights> {
    if uri.starts_with(hub::HUB_SCHEME) {
        let FetchedWeights {
            uri,
            folder,
            file: name,
        } = HubClient::from_env().fetch_weights(uri, &WEIGHTS_FILE_NAMES)?;

        return Ok(ResolvedWeights {
            uri,
            ..resolve_file(&Store::open(&folder.display().to_string())?, &name)?
        });
    }

    match find_weights_file(uri)? {
        Some((parent, name)) => resolve_file(&parent, name),
        None => resolve_folder(&Store::open(uri)?, wanted),
    }
}

/// The folder and the name of a file of weights, `None` if the URI is that of a folder. What has another ending than
/// those that weights usually have is looked up: `best.ckpt` and `model.pt.bak` are read by their content.
fn find_weights_file(uri: &str) -> Result<Option<(Store, &str)>> {
    let (folder, name) = uri.rsplit_once('/').unwrap_or(("", uri));
    let is_bucket = folder.ends_with(":/");
    let is_folder = matches!(name, "." | "..");
    let has_ending = name.contains('.');
    if is_bucket || is_folder || !has_ending {
        return Ok(None);
    }

    let (parent, name) = Store::open_parent(uri)?;
    let is_known = WEIGHTS_ENDINGS.iter().any(|ending| name.ends_with(ending));

    let is_file = is_known || parent.object_size(name)?.is_some();
    Ok(is_file.then_some((parent, name)))
}

/// The training configuration in the folder of the weights at a URI, if there is one.
///
/// # Errors
/// If a checkpoint there is damaged; if the store fails.
pub fn find_training_config(uri: &str) -> Result<Option<TrainConfig>> {
    // Only checkpoints carry a training configuration; a file or a repository has none.
    if uri.starts_with(hub::HUB_SCHEME) || find_weights_file(uri)?.is_some() {
        return Ok(None);
    }

    let found = find_checkpoint(&Store::open(uri)?, &[])?;
    found
        .map(|checkpoint| read_training_config(&checkpoint))
        .transpose()
}

/// The checkpoint in a folder: itself, the one a stage ended with, or the newest of a stage that holds `wanted` files.
fn find_checkpoint(store: &Store, wanted: &[&str]) -> Result<Option<Checkpoint>> {
    const IN_MEMORY: [&str; 1] = [CONFIG_FILE];
    if store.get_if_exists(MANIFEST_FILE)?.is_some() {
        return Checkpoint::open(store, &IN_MEMORY).map(Some);
    }

    // Before the newest: a finished stage names its best checkpoint, which may be an older one.
    if let Some(last) = read_final_checkpoint(store)? {
        return Checkpoint::open(&store.join_prefix(&last.checkpoint), &IN_MEMORY).map(Some);
    }

    // Of a stage at work another checkpoint takes the place of a damaged one, which is found only by reading it.
    let proven = [wanted, &IN_MEMORY].concat();
    Checkpoint::find_newest(&store.join_prefix(CHECKPOINTS_FOLDER), &proven)
}

fn resolve_folder(store: &Store, wanted: &[&str]) -> Result<ResolvedWeights> {
    if let Some(found) = find_checkpoint(store, wanted)? {
        return resolve_checkpoint(found);
    }

    for name in WEIGHTS_FILE_NAMES {
        if store.object_size(name)?.is_some() {
            return resolve_file(store, name);
        }
    }

    Err(Error::Config(format!(
        "{} holds no weights: there is no {MANIFEST_FILE} (a checkpoint), no {FINAL_FILE} (a stage that ended), \
         no {CHECKPOINTS_FOLDER}/ (a stage at work) and none of {}. Name one of these.",
        store.uri(),
        WEIGHTS_FILE_NAMES.join(", ")
    )))
}

/// Which checkpoint the stage at a prefix ended with, if it did.
///
/// # Errors
/// If `final.json` is not readable; if the store fails.
fn read_final_checkpoint(stage: &Store) -> Result<Option<FinalCheckpoint>> {
    let Some(bytes) = stage.get_if_exists(FINAL_FILE)? else {
        return Ok(None);
    };

    let checkpoint = serde_json::from_slice(&bytes).map_err(|error| {
        let uri = stage.object_uri(FINAL_FILE);
        Error::Data(format!(
            "{uri} does not name a checkpoint: {error}. Delete it to use the newest."
        ))
    })?;

    Ok(Some(checkpoint))
}

fn resolve_checkpoint(checkpoint: Checkpoint) -> Result<ResolvedWeights> {
    let tensors = checkpoint.open_weights(WEIGHTS_FILE)?;
    let config = read_training_config(&checkpoint)?;
    let sha256 = checkpoint.file_sha256(WEIGHTS_FILE)?;
    let towers = DetectedTowers::from_weights(&tensors, None);

    Ok(ResolvedWeights {
        uri: checkpoint.uri,
        digest: Some(checkpoint.digest),
        sha256: Some(sha256),
        step: Some(checkpoint.step),
        config: Some(config),
        towers,
        tensors,
    })
}

fn read_training_config(checkpoint: &Checkpoint) -> Result<TrainConfig> {
    serde_json::from_slice(&checkpoint.read_file(CONFIG_FILE)?).map_err(|error| {
        Error::Data(format!(
            "{}/{CONFIG_FILE} is no configuration: {error}",
            checkpoint.uri
        ))
    })
}

fn resolve_file(store: &Store, name: &str) -> Result<ResolvedWeights> {
    let tensors = Weights::open(store, name)?;
    // An unrelated file of a common name: it helps detection if it is JSON, and is ignored otherwise.
    let config = store
        .get_if_exists(CONFIG_FILE)?
        .and_then(|bytes| parse_json(&bytes).ok());

    let towers = DetectedTowers::from_weights(&tensors, config.as_ref());
    let uri = store.object_uri(name);
    let step = tensors.recorded_progress().step;
    Ok(ResolvedWeights {
        uri,
        digest: None,
        sha256: None,
        step,
        config: None,
        towers,
        tensors,
    })
}

/// The tokenizer of a vocabulary: the one named, or else that of the image, which is the vocabulary
/// of all published models.
///
/// # Errors
/// If the file is not there, has another content than its digest says, or more entries than the
/// model's `vocab_size`.
pub fn load_tokenizer(pinned: Option<&PinnedFile>, vocab_size: i32) -> Result<Tokenizer> {
    let (bytes, uri) = load_vocabulary(pinned)?;
    let to_error = |error| Error::Config(format!("The vocabulary {uri} cannot be used: {error}"));
    let vocabulary = Vocabulary::from_bytes(&bytes).map_err(to_error)?;

    // Fewer entries are no error: rows of the embedding that no token uses do no harm, but an id
    // beyond the last row has no embedding.
    if vocabulary.vocab_size() > vocab_size.max(0) as usize {
        return Err(Error::Config(format!(
            "The vocabulary {uri} has {} entries, but the model's text.vocabSize is {vocab_size}. Set one to \
             fit the other.",
            vocabulary.vocab_size()
        )));
    }

    Ok(Tokenizer::new(vocabulary))
}

/// The file of a vocabulary and where it is: the one named, or else that of the image.
///
/// # Errors
/// If the file is not there, or has another content than its digest says.
pub fn load_vocabulary(pinned: Option<&PinnedFile>) -> Result<(Bytes, String)> {
    let (bytes, uri, sha256) = match pinned {
        Some(PinnedFile { uri, sha256 }) => {
            let (folder, name) = Store::open_parent(uri)?;
            (folder.get(name)?, uri.clone(), sha256.as_str())
        }
        None => {
            let path = std::env::var(names::ENV_VOCABULARY);
            let path = path.unwrap_or_else(|_| names::VOCABULARY_PATH.to_owned());
            (
                read_local_vocabulary(Path::new(&path))?,
                path,
                names::VOCABULARY_SHA256,
            )
        }
    };

    let to_error = |error| Error::Config(format!("The vocabulary {uri} cannot be used: {error}"));
    // The image's too, since a variable may name another file: token ids of another vocabulary
    // would be trained on without an error.
    Vocabulary::verify_sha256(&bytes, sha256).map_err(to_error)?;
    Ok((bytes, uri))
}

fn read_local_vocabulary(path: &Path) -> Result<Bytes> {
    std::fs::read(path).map(Bytes::from).map_err(|error| {
        Error::Config(format!(
            "The vocabulary {} cannot be read: {error}. Set `vocabulary` to the URI of a vocab.txt, or \
             {} to its path; the reference's is in the cn-clip package on PyPI.",
            path.display(),
            names::ENV_VOCABULARY
        ))
    })
}
