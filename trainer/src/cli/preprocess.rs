//! The command that turns pictures into tensors.

use std::path::PathBuf;

use clap::Args;
use cnclip::error::Result;
use cnclip::interop::preprocess;

/// For each picture the reference's evaluation transform: decoded, squashed to a square by Pillow's
/// bicubic, converted to RGB (`resized/<file name>`, u8 [S, S, 3]) and normalised
/// (`pixels/<file name>`, f32 [3, S, S]).
#[derive(Args, Debug)]
pub(super) struct PreprocessArgs {
    /// Side of the square, in pixels.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: u32,
    /// The safetensors file to write; it appears whole or not at all.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// JPEG, PNG, WebP, GIF or BMP. Tensors are named after files, so no two may have one name.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

impl PreprocessArgs {
    pub(super) fn run(&self) -> Result<()> {
        preprocess::preprocess_images(&self.images, self.size as usize, &self.output)
    }
}
