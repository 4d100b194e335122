//! Exports a model in the layouts of other libraries: renames and rearranges tensors, never changes values.

mod huggingface;
mod ofa;
mod pickle;

use std::path::Path;

use super::resolved_model::ResolvedModel;
use crate::error::{Error, Result};
use cnclip_nn::model::clip::BatchCapacity;

/// Layout of an exported model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A folder that `transformers` loads as `ChineseCLIPModel` and `ChineseCLIPProcessor`.
    HuggingFace,
    /// A `.pt` that the reference's `cn_clip` loads.
    Ofa,
}

/// Writes a model into a folder, which is created if needed, and returns the names of the files.
///
/// # Errors
/// If the model cannot be read, the layout has no place for it, or the folder cannot be written.
pub fn export_model(
    model: ResolvedModel,
    format: ExportFormat,
    vocabulary: Option<&Path>,
    to: &Path,
) -> Result<Vec<String>> {
    // Only names and values of parameters are used, so the smallest activations suffice.
    let (_, params) = model.build_clip(BatchCapacity {
        batch: 1,
        context: 1,
    })?;

    match format {
        ExportFormat::HuggingFace => {
            // Before the folder is created: a model that cannot be exported leaves nothing behind.
            let description = huggingface::HuggingFaceFiles::describe_model(&model, vocabulary)?;
            // The weights are in `params` now; the stored tensors would keep them in memory twice.
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
