//! `cnclip gradients`: computes the gradients of one batch.

use std::path::PathBuf;

use clap::Args;
use cnclip::error::Result;
use cnclip::interop::gradients;

/// Training mode (batch normalization uses batch statistics), dropout off, symmetric contrastive loss. The
/// output holds `loss`, the unit features `image_features` and `text_features` [b, features], and
/// `grad/<name>` of every parameter under the reference's name.
#[derive(Args, Debug)]
pub(super) struct GradientsArgs {
    /// A folder with `config.json`, the arguments of the reference's `CLIP`, and
    /// `model.safetensors`, its state dict.
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Safetensors with `images` f32 [b, 3, S, S] and `texts` i64 [b, L]. An id of 0 is padding.
    #[arg(long, value_name = "FILE")]
    batch: PathBuf,
    /// Output file, safetensors; written atomically.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

impl GradientsArgs {
    pub(super) fn run(&self) -> Result<()> {
        gradients::write_gradients(&self.model, &self.batch, &self.output)
    }
}
