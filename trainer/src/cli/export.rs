//! `cnclip export`: exports a model for other libraries.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cnclip::error::Result;
use cnclip::interop::export::{self, export_model};
use cnclip::interop::resolved_model::ResolvedModel;

/// Renames and rearranges tensors without changing values: the exported model gives the same features.
#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// A checkpoint, the prefix of a stage, a model folder, or a weights file.
    #[arg(long, value_name = "URI")]
    model: String,
    /// Format of the exported model.
    #[arg(long)]
    format: ExportFormatArg,
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Vocabulary file (vocab.txt) to include; the model's own by default, or that of the published models at
    /// $CNCLIP_VOCAB.
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExportFormatArg {
    /// A folder for `ChineseCLIPModel.from_pretrained` and `ChineseCLIPProcessor.from_pretrained`.
    Huggingface,
    /// One .pt file for `cn_clip.clip.load_from_name`, in the layout of the published files.
    Ofa,
}

impl ExportArgs {
    pub(super) fn run(&self) -> Result<()> {
        let format = match self.format {
            ExportFormatArg::Huggingface => export::ExportFormat::HuggingFace,
            ExportFormatArg::Ofa => export::ExportFormat::Ofa,
        };

        let model = ResolvedModel::open(&self.model)?;
        let files = export_model(model, format, self.vocab.as_deref(), &self.to)?;
        tracing::info!(
            files = files.join(", "),
            "Model written to {}",
            self.to.display()
        );

        Ok(())
    }
}
