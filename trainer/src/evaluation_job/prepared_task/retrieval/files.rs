//! The files of a retrieval task: predictions, scores, matches and features. Computes nothing.

use cnclip_crds::trainer_config::FeatureFormat;

use crate::error::{Error, Result};
use crate::evaluate::ScoredRetrieval;
use crate::evaluate::predictions::{
    self, ANSWERS_FILE, CorpusIds, IMAGE_TO_TEXT_FILE, TEXT_TO_IMAGE_FILE,
};
use crate::evaluate::predictions::{IMAGE_TO_TEXT_SCORE_FILE, TEXT_TO_IMAGE_SCORE_FILE};
use crate::interop::features::{FeatureKind, FeatureWriter, file_extension};
use cnclip_data::shard::ItemId;
use cnclip_data::store::{ObjectWriter, Store};

/// Writes the predictions of both directions, their scores where the data set has labels, the matches where a
/// threshold is reached, and the features in every format.
///
/// # Errors
/// If the store does not take them.
pub(super) fn write_retrieval_files(
    scored: &ScoredRetrieval,
    formats: &[FeatureFormat],
    folder: &Store,
) -> Result<()> {
    let corpus = &scored.corpus;
    let retrieval = &scored.retrieval;
    let texts: Vec<_> = corpus.texts.iter().map(|text| &text.text_id).collect();
    let images: Vec<_> = corpus.images.iter().map(|image| &image.image_id).collect();
    let ids = CorpusIds {
        texts: &texts,
        images: &images,
    };

    let of_texts = &retrieval.text_to_image;
    let of_images = &retrieval.image_to_text;

    upload_file(folder, TEXT_TO_IMAGE_FILE, |to| {
        predictions::write_text_to_image(&ids, of_texts, to)
    })?;

    upload_file(folder, IMAGE_TO_TEXT_FILE, |to| {
        predictions::write_image_to_text(&ids, of_images, to)
    })?;

    for (name, direction) in [
        (TEXT_TO_IMAGE_SCORE_FILE, of_texts),
        (IMAGE_TO_TEXT_SCORE_FILE, of_images),
    ] {
        let score = direction
            .recall
            .map(|recall| predictions::score_json(recall).to_string());
        score.map_or(Ok(()), |score| folder.put(name, score.into()))?;
    }

    if let Some(threshold) = scored.reached_threshold() {
        // Exact, because it was widened from fp32: the query that fixed the threshold stays
        // accepted.
        let least = threshold.similarity as f32;
        upload_file(folder, ANSWERS_FILE, |to| {
            predictions::write_answers(&ids, of_texts, least, to)
        })?;
    }

    formats
        .iter()
        .try_for_each(|&format| write_features(scored, format, &ids, folder))
}

fn write_features(
    scored: &ScoredRetrieval,
    format: FeatureFormat,
    ids: &CorpusIds<'_, &ItemId>,
    folder: &Store,
) -> Result<()> {
    let pool = scored.corpus.retrieval_pool();
    for (name, kind, ids, features) in [
        ("images", FeatureKind::Images, ids.images, pool.images),
        ("texts", FeatureKind::Texts, ids.texts, pool.texts),
    ] {
        // Streamed, so that the encoded file is not held in memory next to the features.
        let extension = file_extension(format);
        let file = format!("{name}.{extension}");
        let rows = features.count();
        let width = features.width();

        let id_lines = folder.write_with(&file, |to| {
            let mut writer = FeatureWriter::new(format, kind, rows, width, to)?;
            writer.write_features(ids.iter().copied(), features.values())?;
            writer.finish()
        })?;

        if let Some(ids) = id_lines {
            let file = format!("{name}.ids.jsonl");
            folder.put(&file, ids.into())?;
        }
    }

    Ok(())
}

fn upload_file(
    folder: &Store,
    name: &str,
    write: impl FnOnce(&mut ObjectWriter<'_>) -> std::io::Result<()>,
) -> Result<()> {
    folder.write_with(name, |to| {
        write(to).map_err(Error::io_context("write", name))
    })
}

#[cfg(test)]
mod tests;
