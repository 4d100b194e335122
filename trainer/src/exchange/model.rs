//! A model found at a URI, whole: weights, towers, and the vocabulary that belongs to it.

use std::path::Path;

use bytes::Bytes;
use cnclip_crds::model::ModelConfig;
use cnclip_crds::run_config::PinnedFile;

use super::tokens;
use crate::error::{Error, Result};
use crate::source::{self, CONTEXT_LENGTH, Found};
use crate::weights::{Part, load};
use cnclip_compute::params::Params;
use cnclip_data::store::Store;
use cnclip_data::tokenize::Tokenizer;
use cnclip_nn::model::clip::{Capacity, Clip};

/// The vocabulary in a folder of a model, as Hugging Face lays it there.
pub const VOCABULARY: &str = "vocab.txt";

/// A model that can be built.
#[derive(Debug)]
pub struct Model {
    /// Its towers.
    pub config: ModelConfig,
    /// Tokens of the longest text it was trained with.
    pub context_length: usize,
    /// What was found.
    pub found: Found,
    folder: Option<Store>,
}

impl Model {
    /// Finds a model where [`source::weights`] finds weights.
    ///
    /// # Errors
    /// If there are none, or nothing says what towers they are of.
    pub fn open(uri: &str) -> Result<Self> {
        let found = source::weights(uri)?;
        let folder = Store::open(uri).ok();
        let config = found.model()?;
        let trained = found.config.as_ref();
        let context_length = trained.map_or(CONTEXT_LENGTH, |c| c.context_length as usize);

        Ok(Self {
            config,
            context_length,
            found,
            folder,
        })
    }

    /// The towers with their weights.
    ///
    /// # Errors
    /// If the weights do not fit.
    pub fn build(&self, capacity: Capacity) -> Result<(Clip, Params)> {
        let (clip, mut params) = Clip::new(&self.config, capacity);
        load(&mut params, &self.found.tensors, Part::All)
            .map_err(|error| Error::Data(format!("{}: {error}", self.found.uri)))?;
        Ok((clip, params))
    }

    /// The file of the vocabulary named, or else that of its training, that beside its weights, or
    /// that of the published models; and where it is.
    ///
    /// # Errors
    /// If it cannot be read, or is not what the training pinned.
    pub fn vocabulary(&self, named: Option<&Path>) -> Result<(Bytes, String)> {
        if let Some(path) = named {
            let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
            return Ok((bytes.into(), path.display().to_string()));
        }

        match (self.pinned(), self.beside()?) {
            (None, Some(beside)) => Ok(beside),
            (pinned, _) => source::vocabulary(pinned),
        }
    }

    /// The tokenizer of [`Self::vocabulary`].
    ///
    /// # Errors
    /// If there is none, or it has more entries than the text tower.
    pub fn tokenizer(&self, named: Option<&Path>) -> Result<Tokenizer> {
        let (bytes, uri) = self.vocabulary(named)?;
        tokens::of_vocabulary(&bytes, &uri, self.config.text.vocab_size)
    }

    fn pinned(&self) -> Option<&PinnedFile> {
        self.found.config.as_ref()?.vocabulary.as_ref()
    }

    fn beside(&self) -> Result<Option<(Bytes, String)>> {
        let Some(folder) = &self.folder else {
            return Ok(None);
        };

        Ok(folder
            .find(VOCABULARY)?
            .map(|bytes| (bytes, folder.uri_of(VOCABULARY))))
    }
}
