//! A model in the layouts that others load. Changes names and places of numbers, never a number.

mod huggingface;
mod ofa;
mod pickle;

use std::path::Path;

use super::resolved_model::ResolvedModel;
use crate::error::{Error, Result};
use cnclip_nn::model::clip::BatchCapacity;

/// A layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A folder that `transformers` loads as `ChineseCLIPModel` and `ChineseCLIPProcessor`.
    HuggingFace,
    /// A `.pt` that the reference's `cn_clip` loads.
    Ofa,
}

/// Writes a model into a folder, which is made if it is not there; gives the names of its files.
///
/// # Errors
/// If the model cannot be read, the layout has no place for it, or the folder cannot be written.
pub fn export_model(
    model: ResolvedModel,
    format: ExportFormat,
    vocabulary: Option<&Path>,
    to: &Path,
) -> Result<Vec<String>> {
    // Nothing is encoded: the towers are only asked for their names.
    let (_, params) = model.build_clip(BatchCapacity {
        batch: 1,
        context: 1,
    })?;

    match format {
        ExportFormat::HuggingFace => {
            let description = huggingface::HuggingFaceFiles::describe_model(&model, vocabulary)?;
            drop(model);
            create_folder(to)?;
            huggingface::write_folder(&params, &description, to)
        }
        ExportFormat::Ofa => {
            let name = ofa::checkpoint_name(&model.config);
            drop(model);
            create_folder(to)?;
            ofa::write_checkpoint(&params, &name, to)
        }
    }
}

fn create_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io_context("create", folder))
}
