//! Images as the image tower receives them, before and after normalization.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::tensor::{Dtype, View};

use super::atomic_file;
use crate::error::{Error, Result};
use cnclip_data::image::Rgb;
use cnclip_data::image::decode::decode_image;
use cnclip_data::image::preprocess::{CHANNEL_MEANS, CHANNEL_STDS};

/// Content of an image tensor.
#[derive(Clone, Copy)]
enum TensorContent {
    /// u8 values, with interleaved channels.
    Resized,
    /// Normalized fp32 values, channel by channel.
    Pixels,
}

struct ImageTensor<'a> {
    pixels: &'a [Rgb],
    shape: [usize; 3],
    content: TensorContent,
}

impl<'a> ImageTensor<'a> {
    fn new(pixels: &'a [Rgb], side: usize, content: TensorContent) -> Self {
        let shape = match content {
            TensorContent::Resized => [side, side, 3],
            TensorContent::Pixels => [3, side, side],
        };

        Self {
            pixels,
            shape,
            content,
        }
    }

    fn normalized_values(&self) -> impl Iterator<Item = f32> {
        // In the order of torchvision's ToTensor and Normalize: one fused factor would round
        // otherwise.
        let value =
            |c: usize, level: u8| (f32::from(level) / 255.0 - CHANNEL_MEANS[c]) / CHANNEL_STDS[c];
        (0..3).flat_map(move |c| self.pixels.iter().map(move |pixel| value(c, pixel[c])))
    }
}

impl View for ImageTensor<'_> {
    fn dtype(&self) -> Dtype {
        match self.content {
            TensorContent::Resized => Dtype::U8,
            TensorContent::Pixels => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.content {
            TensorContent::Resized => self.pixels.as_flattened().into(),
            TensorContent::Pixels => self
                .normalized_values()
                .flat_map(f32::to_le_bytes)
                .collect(),
        }
    }

    fn data_len(&self) -> usize {
        match self.content {
            TensorContent::Resized => 3 * self.pixels.len(),
            TensorContent::Pixels => 12 * self.pixels.len(),
        }
    }
}

/// Writes `resized/<file name>` u8 \[side, side, 3\] and `pixels/<file name>` f32 \[3, side, side\] of every
/// image, as evaluation preprocesses it.
///
/// # Errors
/// If two images have the same file name, a file cannot be read or decoded, or the output cannot be written.
pub fn preprocess_images(images: &[PathBuf], side: usize, to: &Path) -> Result<()> {
    let names = unique_file_names(images)?;
    let squares: Result<Vec<_>> = images
        .par_iter()
        .map(|path| read_square_image(path, side))
        .collect();
    let squares = squares?;
    let tensors = names.iter().zip(&squares).flat_map(|(name, pixels)| {
        [
            ("resized", TensorContent::Resized),
            ("pixels", TensorContent::Pixels),
        ]
        .map(|(folder, content)| {
            (
                format!("{folder}/{name}"),
                ImageTensor::new(pixels, side, content),
            )
        })
    });

    atomic_file::write_safetensors(to, tensors)
}

fn unique_file_names(images: &[PathBuf]) -> Result<Vec<&str>> {
    let names = images
        .iter()
        .map(|path| file_name(path))
        .collect::<Result<Vec<_>>>()?;

    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(**name)) {
        Some(twice) => Err(Error::Usage(format!(
            "two images are called {twice}, and tensors are named after files; rename one"
        ))),
        None => Ok(names),
    }
}

fn file_name(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| {
            Error::Usage(format!(
                "{} has no file name in UTF-8; rename it",
                path.display()
            ))
        })
}

fn read_square_image(path: &Path, side: usize) -> Result<Vec<Rgb>> {
    let bytes = std::fs::read(path).map_err(Error::io_context("read", path))?;
    let picture = decode_image(&bytes)
        .map_err(|error| Error::Data(format!("{}: {error}", path.display())))?;
    // Without a crop: the reference's evaluation resizes both sides and ignores the aspect ratio.
    Ok(picture.resize_to_square(picture.full_region(), side))
}
