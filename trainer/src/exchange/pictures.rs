//! Pictures as a tower is given them, before and after their levels become numbers.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::tensor::{Dtype, View};

use super::output;
use crate::error::{Error, Result};
use cnclip_data::decode::decode;
use cnclip_data::preprocess::{DEVIATION, MEAN, Rgb};

/// What of a picture a tensor holds.
#[derive(Clone, Copy)]
enum Content {
    /// Levels, the channels of a pixel side by side.
    Resized,
    /// Numbers, one channel after the other.
    Pixels,
}

struct Square<'a> {
    pixels: &'a [Rgb],
    shape: [usize; 3],
    content: Content,
}

impl<'a> Square<'a> {
    fn new(pixels: &'a [Rgb], side: usize, content: Content) -> Self {
        let shape = match content {
            Content::Resized => [side, side, 3],
            Content::Pixels => [3, side, side],
        };

        Self {
            pixels,
            shape,
            content,
        }
    }

    fn numbers(&self) -> impl Iterator<Item = f32> {
        let value = |c: usize, level: u8| (f32::from(level) / 255.0 - MEAN[c]) / DEVIATION[c];
        (0..3).flat_map(move |c| self.pixels.iter().map(move |pixel| value(c, pixel[c])))
    }
}

impl View for Square<'_> {
    fn dtype(&self) -> Dtype {
        match self.content {
            Content::Resized => Dtype::U8,
            Content::Pixels => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.content {
            Content::Resized => self.pixels.as_flattened().into(),
            Content::Pixels => self.numbers().flat_map(f32::to_le_bytes).collect(),
        }
    }

    fn data_len(&self) -> usize {
        match self.content {
            Content::Resized => 3 * self.pixels.len(),
            Content::Pixels => 12 * self.pixels.len(),
        }
    }
}

/// Writes `resized/<file name>` u8 [side, side, 3] and `pixels/<file name>` f32 [3, side, side] of
/// every picture, as evaluation sees it.
///
/// # Errors
/// Two pictures of one file name; a file that cannot be read or is no picture; if the output cannot
/// be written.
pub fn preprocess(images: &[PathBuf], side: usize, to: &Path) -> Result<()> {
    let names = names(images)?;
    let squares: Result<Vec<_>> = images.par_iter().map(|path| square(path, side)).collect();
    let squares = squares?;
    let tensors = names.iter().zip(&squares).flat_map(|(name, pixels)| {
        [("resized", Content::Resized), ("pixels", Content::Pixels)].map(|(folder, content)| {
            (
                format!("{folder}/{name}"),
                Square::new(pixels, side, content),
            )
        })
    });

    output::tensors(to, tensors)
}

fn names(images: &[PathBuf]) -> Result<Vec<&str>> {
    let names = images
        .iter()
        .map(|path| name(path))
        .collect::<Result<Vec<_>>>()?;

    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(**name)) {
        Some(twice) => Err(Error::Usage(format!(
            "two images are called {twice}, and tensors are named after files; rename one"
        ))),
        None => Ok(names),
    }
}

fn name(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| {
            Error::Usage(format!(
                "{} has no file name in UTF-8; rename it",
                path.display()
            ))
        })
}

fn square(path: &Path, side: usize) -> Result<Vec<Rgb>> {
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    let picture =
        decode(&bytes).map_err(|error| Error::Data(format!("{}: {error}", path.display())))?;
    Ok(picture.squashed(picture.whole(), side))
}
