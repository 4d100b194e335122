//! The files of one retrieval beside the results of the evaluation. Computes nothing.

use serde_json::Value;

use super::Scored;
use super::predictions::{self, IMAGE_TO_TEXT, TEXT_TO_IMAGE};
use super::predictions::{IMAGE_TO_TEXT_SCORE, TEXT_TO_IMAGE_SCORE};
use crate::error::{Error, Result};
use crate::store::Store;

/// Writes what was found for each query in both directions, and how good that is where it is known.
///
/// # Errors
/// If the store does not take them.
pub(super) fn write(scored: &Scored, folder: &Store) -> Result<()> {
    let (gallery, retrieval) = (&scored.gallery, &scored.retrieval);
    let texts: Vec<_> = gallery.texts.iter().map(|text| text.text_id).collect();
    let images: Vec<_> = gallery.images.iter().map(|image| image.image_id).collect();
    let ids = (texts.as_slice(), images.as_slice());
    put(folder, TEXT_TO_IMAGE, |to| predictions::of_texts(ids, &retrieval.text_to_image, to))?;
    put(folder, IMAGE_TO_TEXT, |to| predictions::of_images(ids, &retrieval.image_to_text, to))?;
    for (name, direction) in [
        (TEXT_TO_IMAGE_SCORE, &retrieval.text_to_image),
        (IMAGE_TO_TEXT_SCORE, &retrieval.image_to_text),
    ] {
        let score = direction.recall.map(predictions::score);
        score.map_or(Ok(()), |score: Value| folder.put(name, score.to_string().into()))?;
    }
    Ok(())
}

fn put(
    folder: &Store,
    name: &str,
    write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>,
) -> Result<()> {
    let mut bytes = Vec::new();
    write(&mut bytes).map_err(|error| Error::Bug(format!("{name} cannot be written: {error}")))?;
    folder.put(name, bytes.into())
}
