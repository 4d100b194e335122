//! Scores retrieval from feature files in the reference's format, whichever model they are from.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::atomic_file;
use crate::error::{Error, Result};
use crate::evaluate::predictions::{self, CorpusIds, IMAGE_TO_TEXT_FILE, TEXT_TO_IMAGE_FILE};
use crate::evaluate::predictions::{IMAGE_TO_TEXT_SCORE_FILE, TEXT_TO_IMAGE_SCORE_FILE};
use crate::evaluate::retrieval::{RetrievalPool, RetrievalResult};
use cnclip_compute::nearest_neighbors::FeatureMatrix;
use cnclip_data::jsonl::JsonLines;
use cnclip_data::shard::ItemId;

/// A line of a feature file.
trait FeatureRow: DeserializeOwned {
    const EXPECTED: &'static str;
    fn into_id_and_feature(self) -> (ItemId, Vec<f32>);
}

#[derive(Deserialize)]
struct ImageFeatureRow {
    image_id: ItemId,
    feature: Vec<f32>,
}

impl FeatureRow for ImageFeatureRow {
    const EXPECTED: &'static str = "{\"image_id\": 1, \"feature\": [0.1, …]} with finite numbers";
    fn into_id_and_feature(self) -> (ItemId, Vec<f32>) {
        (self.image_id, self.feature)
    }
}

#[derive(Deserialize)]
struct TextFeatureRow {
    text_id: ItemId,
    feature: Vec<f32>,
}

impl FeatureRow for TextFeatureRow {
    const EXPECTED: &'static str = "{\"text_id\": 1, \"feature\": [0.1, …]} with finite numbers";
    fn into_id_and_feature(self) -> (ItemId, Vec<f32>) {
        (self.text_id, self.feature)
    }
}

/// A line of a relevance file, from either side.
#[derive(Deserialize)]
#[serde(untagged)]
enum RelevanceLine {
    OfText {
        text_id: ItemId,
        image_ids: Vec<ItemId>,
    },
    OfImage {
        image_id: ItemId,
        text_ids: Vec<ItemId>,
    },
}

/// The features of a file, in its order.
struct FeatureTable {
    file: String,
    row_by_id: HashMap<ItemId, usize>,
    ids: Vec<ItemId>,
    values: Vec<f32>,
    width: usize,
}

impl FeatureTable {
    fn read_file<R: FeatureRow>(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let mut table = Self {
            file,
            row_by_id: HashMap::new(),
            ids: vec![],
            values: vec![],
            width: 0,
        };

        JsonLines::open(path, R::EXPECTED)?.for_each(|place, row: R| {
            let (id, feature) = row.into_id_and_feature();
            table
                .push_row(id, &feature)
                .map_err(|why| Error::Data(format!("{place}: {why}.")))
        })?;

        match table.row_by_id.is_empty() {
            true => Err(Error::Data(format!("{} holds no feature.", table.file))),
            false => Ok(table),
        }
    }

    fn push_row(&mut self, id: ItemId, feature: &[f32]) -> Result<(), String> {
        // A decimal beyond the range of fp32 is parsed as infinity, and its similarities as NaN or
        // infinity would distort the ranking of every query.
        if let Some(place) = feature.iter().position(|value| !value.is_finite()) {
            return Err(format!(
                "number {place} of feature {id} is no finite 32-bit number"
            ));
        }

        if self.row_by_id.is_empty() {
            self.width = feature.len();
        }

        if feature.is_empty() || feature.len() != self.width {
            let found = feature.len();
            let expected = self.width;
            return Err(format!(
                "feature {id} has {found} numbers, the first has {expected}"
            ));
        }

        if self.row_by_id.insert(id.clone(), self.ids.len()).is_some() {
            return Err(format!("feature {id} was given before"));
        }

        self.ids.push(id);
        self.values.extend(feature);
        Ok(())
    }

    fn find_row(&self, id: &ItemId) -> Result<usize, String> {
        self.row_by_id
            .get(id)
            .copied()
            .ok_or_else(|| format!("{} has no feature {id}", self.file))
    }

    fn feature_matrix(&self) -> FeatureMatrix<'_> {
        FeatureMatrix::new(&self.values, self.width)
    }
}

/// The result of a search over feature files, with their ids.
#[derive(Debug)]
pub struct SearchedFeatures {
    /// Ids of the texts, in the order of their file.
    pub texts: Vec<ItemId>,
    /// Ids of the images, in the order of their file.
    pub images: Vec<ItemId>,
    /// The nearest candidates.
    pub retrieval: RetrievalResult,
}

/// Searches features in the reference's JSON lines in both directions.
///
/// `relevance` has lines of `text_id` and `image_ids`, or of `image_id` and `text_ids`, or of both; without
/// it, no recall is known.
///
/// # Errors
/// A line that is none, a feature given twice or of another length, an id without a feature.
///
/// # Guarantees
/// As [`RetrievalResult::search_pool`]: a query without a relevant candidate is left out of recall.
pub fn score_feature_files(
    images: &Path,
    texts: &Path,
    relevance: Option<&Path>,
) -> Result<SearchedFeatures> {
    let images = FeatureTable::read_file::<ImageFeatureRow>(images)?;
    let texts = FeatureTable::read_file::<TextFeatureRow>(texts)?;
    if images.width != texts.width {
        return Err(Error::Data(format!(
            "{} has features of {} numbers and {} of {}. Take both from one model.",
            images.file, images.width, texts.file, texts.width
        )));
    }

    let unknown = || vec![Vec::new(); texts.ids.len()];
    let relevant = relevance
        .map(|path| read_relevance(path, &images, &texts))
        .transpose()?;

    let relevant = relevant.unwrap_or_else(unknown);
    let pool = RetrievalPool {
        texts: texts.feature_matrix(),
        images: images.feature_matrix(),
        relevant: &relevant,
    };

    let retrieval = RetrievalResult::search_pool(pool);
    Ok(SearchedFeatures {
        texts: texts.ids,
        images: images.ids,
        retrieval,
    })
}

/// For each text, the images it describes.
fn read_relevance(
    path: &Path,
    images: &FeatureTable,
    texts: &FeatureTable,
) -> Result<Vec<Vec<usize>>> {
    let mut relevant = vec![Vec::new(); texts.row_by_id.len()];
    let expected =
        "{\"text_id\": 1, \"image_ids\": [2, …]} or {\"image_id\": 2, \"text_ids\": [1, …]}";
    JsonLines::open(path, expected)?.for_each(|place, line: RelevanceLine| -> Result<()> {
        let pairs: Vec<_> = match line {
            RelevanceLine::OfText { text_id, image_ids } => image_ids
                .into_iter()
                .map(|image| (text_id.clone(), image))
                .collect(),
            RelevanceLine::OfImage { image_id, text_ids } => text_ids
                .into_iter()
                .map(|text| (text, image_id.clone()))
                .collect(),
        };

        for (text, image) in pairs {
            let known = |why| Error::Data(format!("{place}: {why}."));
            let text = texts.find_row(&text).map_err(known)?;
            let image = images.find_row(&image).map_err(known)?;
            relevant[text].push(image);
        }

        Ok(())
    })?;

    // Otherwise the command would succeed and print no recall.
    match relevant.iter().all(Vec::is_empty) {
        true => Err(Error::Data(format!(
            "{} has no labels: no text has an image.",
            path.display()
        ))),
        false => Ok(relevant),
    }
}

impl SearchedFeatures {
    /// Writes predictions, and their scores where there are labels, into a folder.
    ///
    /// # Errors
    /// If a file cannot be written; each is there whole or not at all.
    pub fn write_predictions(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io_context("create", folder))?;
        let ids = CorpusIds {
            texts: &self.texts,
            images: &self.images,
        };

        let of_texts = &self.retrieval.text_to_image;
        let of_images = &self.retrieval.image_to_text;
        let write = |name: &str, rows: &dyn Fn(&mut BufWriter<&File>) -> io::Result<()>| {
            let path = folder.join(name);
            atomic_file::write_atomically(&path, |to| {
                rows(to).map_err(Error::io_context("write", &path))
            })
        };

        write(TEXT_TO_IMAGE_FILE, &|to| {
            predictions::write_text_to_image(&ids, of_texts, to)
        })?;

        write(IMAGE_TO_TEXT_FILE, &|to| {
            predictions::write_image_to_text(&ids, of_images, to)
        })?;

        for (name, found) in [
            (TEXT_TO_IMAGE_SCORE_FILE, of_texts),
            (IMAGE_TO_TEXT_SCORE_FILE, of_images),
        ] {
            if let Some(recall) = found.recall {
                write(name, &|to| {
                    atomic_file::write_json_line(to, &predictions::score_json(recall))
                })?;
            }
        }

        Ok(())
    }
}
