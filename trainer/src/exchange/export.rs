//! A model in the layouts that others load. Changes names and places of numbers, never a number.

mod huggingface;
mod ofa;
mod pickle;

use std::path::Path;

use super::model::Model;
use crate::error::{Error, Result};
use cnclip_nn::model::clip::Capacity;

/// A layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A folder that `transformers` loads as `ChineseCLIPModel` and `ChineseCLIPProcessor`.
    HuggingFace,
    /// A `.pt` that the reference's `cn_clip` loads.
    Ofa,
}

/// Writes a model into a folder, which is made if it is not there; gives the names of its files.
///
/// # Errors
/// If the model cannot be read, the layout has no place for it, or the folder cannot be written.
pub fn export(
    model: Model,
    format: Format,
    vocabulary: Option<&Path>,
    to: &Path,
) -> Result<Vec<String>> {
    // Nothing is encoded: the towers are only asked for their names.
    let (_, params) = model.build(Capacity {
        batch: 1,
        context: 1,
    })?;

    match format {
        Format::HuggingFace => {
            let description = huggingface::Description::of(&model, vocabulary)?;
            drop(model);
            make(to)?;
            huggingface::write(&params, &description, to)
        }
        Format::Ofa => {
            let name = ofa::name(&model.config);
            drop(model);
            make(to)?;
            ofa::write(&params, &name, to)
        }
    }
}

fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::file("create", folder))
}
