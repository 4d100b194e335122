//! A model resolved from a URI: weights, configuration and vocabulary.

use std::path::Path;

use bytes::Bytes;
use cnclip_crds::model::ModelConfig;
use cnclip_crds::trainer_config::PinnedFile;

use super::tokenize;
use crate::error::{Error, Result};
use crate::host_memory::ensure_model_fits;
use crate::model_resolver::{self, DEFAULT_CONTEXT_LENGTH, ResolvedWeights};
use crate::weights::{ModelPart, load_weights};
use cnclip_compute::params::Params;
use cnclip_data::store::Store;
use cnclip_data::tokenizer::Tokenizer;
use cnclip_nn::model::clip::{BatchCapacity, Clip};

/// The vocabulary in a folder of a model, as Hugging Face lays it there.
pub const VOCABULARY_FILE: &str = "vocab.txt";

/// A model that can be built.
#[derive(Debug)]
pub struct ResolvedModel {
    /// Its towers.
    pub config: ModelConfig,
    /// Tokens of the longest text it was trained with.
    pub context_length: usize,
    /// What was found.
    pub weights: ResolvedWeights,
    folder: Option<Store>,
}

impl ResolvedModel {
    /// Resolves a model as [`model_resolver::resolve_weights`] resolves weights.
    ///
    /// # Errors
    /// If there are none, or their architecture is unknown.
    pub fn open(uri: &str) -> Result<Self> {
        let found = model_resolver::resolve_weights(uri)?;
        // Used for the vocabulary only, which is optional: that of the published models is the
        // default.
        let folder = Store::open(uri).ok();
        let config = found.model_config()?;
        let trained = found.config.as_ref();
        let context_length = trained.map_or(DEFAULT_CONTEXT_LENGTH, |c| c.context_length as usize);

        Ok(Self {
            config,
            context_length,
            weights: found,
            folder,
        })
    }

    /// The towers with their weights.
    ///
    /// # Errors
    /// If this process cannot hold the model, or the weights do not fit it.
    pub fn build_clip(&self, capacity: BatchCapacity) -> Result<(Clip, Params)> {
        ensure_model_fits(&self.config)?;
        let (clip, mut params) = Clip::new(&self.config, capacity);
        load_weights(&mut params, &self.weights.tensors, ModelPart::All)
            .map_err(|error| Error::Data(format!("{}: {error}", self.weights.uri)))?;
        Ok((clip, params))
    }

    /// Reads the named vocabulary file, or else that of the model's training, that in the folder of the weights,
    /// or that of the published models. Returns its content and location.
    ///
    /// # Errors
    /// If it cannot be read, or is not what the training pinned.
    pub fn read_vocabulary(&self, named: Option<&Path>) -> Result<(Bytes, String)> {
        if let Some(path) = named {
            let bytes = std::fs::read(path).map_err(Error::io_context("read", path))?;
            return Ok((bytes.into(), path.display().to_string()));
        }

        match (self.pinned_vocabulary(), self.adjacent_vocabulary()?) {
            // A pinned vocabulary wins: its digest is checked, and the file may have been replaced.
            (None, Some(beside)) => Ok(beside),
            (pinned, _) => model_resolver::load_vocabulary(pinned),
        }
    }

    /// Builds the tokenizer of [`Self::read_vocabulary`].
    ///
    /// # Errors
    /// If there is none, or it has more entries than the text tower.
    pub fn build_tokenizer(&self, named: Option<&Path>) -> Result<Tokenizer> {
        let (bytes, uri) = self.read_vocabulary(named)?;
        tokenize::tokenizer_from_bytes(&bytes, &uri, self.config.text.vocab_size)
    }

    fn pinned_vocabulary(&self) -> Option<&PinnedFile> {
        self.weights.config.as_ref()?.vocabulary.as_ref()
    }

    fn adjacent_vocabulary(&self) -> Result<Option<(Bytes, String)>> {
        let Some(folder) = &self.folder else {
            return Ok(None);
        };

        Ok(folder
            .get_if_exists(VOCABULARY_FILE)?
            .map(|bytes| (bytes, folder.object_uri(VOCABULARY_FILE))))
    }
}
