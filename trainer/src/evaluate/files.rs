//! The files of one retrieval beside the results of the evaluation. Computes nothing.

use cnclip_crds::run_config::FeatureFormat;

use super::Scored;
use super::predictions::{self, ANSWERS, IMAGE_TO_TEXT, TEXT_TO_IMAGE};
use super::predictions::{IMAGE_TO_TEXT_SCORE, TEXT_TO_IMAGE_SCORE};
use crate::error::{Error, Result};
use crate::exchange::features::{Of, Writer, ending};
use cnclip_data::shard::Id;
use cnclip_data::store::{Store, Upload};

/// Writes what was found for each query in both directions, how good that is where it is known, what
/// is told as an answer where that was asked for, and the features in every format.
///
/// # Errors
/// If the store does not take them.
pub(super) fn write(scored: &Scored, formats: &[FeatureFormat], folder: &Store) -> Result<()> {
    let gallery = &scored.gallery;
    let retrieval = &scored.retrieval;
    let texts: Vec<_> = gallery.texts.iter().map(|text| &text.text_id).collect();
    let images: Vec<_> = gallery.images.iter().map(|image| &image.image_id).collect();
    let ids = (texts.as_slice(), images.as_slice());
    let of_texts = &retrieval.text_to_image;
    let of_images = &retrieval.image_to_text;

    put(folder, TEXT_TO_IMAGE, |to| {
        predictions::of_texts(ids, of_texts, to)
    })?;

    put(folder, IMAGE_TO_TEXT, |to| {
        predictions::of_images(ids, of_images, to)
    })?;

    for (name, direction) in [
        (TEXT_TO_IMAGE_SCORE, of_texts),
        (IMAGE_TO_TEXT_SCORE, of_images),
    ] {
        let score = direction
            .recall
            .map(|recall| predictions::score(recall).to_string());
        score.map_or(Ok(()), |score| folder.put(name, score.into()))?;
    }

    if let Some(threshold) = scored.threshold() {
        let least = threshold.similarity as f32;
        put(folder, ANSWERS, |to| {
            predictions::answers(ids, of_texts, least, to)
        })?;
    }

    formats
        .iter()
        .try_for_each(|&format| features(scored, format, ids, folder))
}

fn features(
    scored: &Scored,
    format: FeatureFormat,
    (texts, images): (&[&Id], &[&Id]),
    folder: &Store,
) -> Result<()> {
    let pool = scored.gallery.pool();
    for (name, of, ids, features) in [
        ("images", Of::Images, images, pool.images),
        ("texts", Of::Texts, texts, pool.texts),
    ] {
        let size = (features.count(), features.width());
        let beside = folder.write(&format!("{name}.{}", ending(format)), |to| {
            let mut writer = Writer::new(format, of, size, to)?;
            writer.add(ids.iter().copied(), features.values())?;
            writer.finish()
        })?;
        beside.map_or(Ok(()), |ids| {
            folder.put(&format!("{name}.ids.jsonl"), ids.into())
        })?;
    }

    Ok(())
}

fn put(
    folder: &Store,
    name: &str,
    write: impl FnOnce(&mut Upload<'_>) -> std::io::Result<()>,
) -> Result<()> {
    folder.write(name, |to| write(to).map_err(Error::file("write", name)))
}

#[cfg(test)]
mod tests;
