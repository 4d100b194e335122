//! The command that hands a model to others.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cnclip::error::Result;
use cnclip::interop::export::{self, export_model};
use cnclip::interop::resolved_model::ResolvedModel;

/// No number changes, only names and places: the features are the same there and here.
#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// A checkpoint, the prefix of a stage, a folder of a model, or a file of weights.
    #[arg(long, value_name = "URI")]
    model: String,
    /// How the model is laid out.
    #[arg(long)]
    format: ExportFormatArg,
    /// The folder to write into.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// A vocab.txt for the folder; otherwise the model's own, or that of the published models at
    /// $CNCLIP_VOCAB.
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExportFormatArg {
    /// A folder for `ChineseCLIPModel.from_pretrained` and `ChineseCLIPProcessor.from_pretrained`.
    Huggingface,
    /// One .pt for `cn_clip.clip.load_from_name`, in the layout of the published ones.
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
