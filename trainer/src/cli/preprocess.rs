//! `cnclip preprocess`: preprocesses images.

use std::path::PathBuf;

use clap::Args;
use cnclip::error::Result;
use cnclip::interop::preprocess;

/// Applies the reference's evaluation transform to each image: decode, resize to a square with Pillow's
/// bicubic filter, convert to RGB (`resized/<file name>`, u8 [S, S, 3]) and normalize (`pixels/<file name>`,
/// f32 [3, S, S]).
#[derive(Args, Debug)]
pub(super) struct PreprocessArgs {
    /// Width and height of the square, in pixels.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: u32,
    /// Output file, safetensors; written atomically.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Image files: JPEG, PNG, WebP, GIF or BMP. Tensors are named after files, so file names must be unique.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

impl PreprocessArgs {
    pub(super) fn run(&self) -> Result<()> {
        preprocess::preprocess_images(&self.images, self.size as usize, &self.output)
    }
}
