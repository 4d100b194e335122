//! Retrieval scored from features that anybody made, in the reference's files.

use std::collections::HashMap;
use std::path::Path;

use cnclip_crds::report::Recalls;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::lines::Lines;
use crate::error::{Error, Result};
use crate::evaluate::retrieval::{Pool, Retrieval};
use crate::evaluate::search::Features;

/// A line of a feature file.
trait Row: DeserializeOwned {
    const EXPECTED: &'static str;
    fn parts(self) -> (u64, Vec<f32>);
}

#[derive(Deserialize)]
struct ImageRow {
    image_id: u64,
    feature: Vec<f32>,
}

impl Row for ImageRow {
    const EXPECTED: &'static str = "{\"image_id\": 1, \"feature\": [0.1, …]} with finite numbers";
    fn parts(self) -> (u64, Vec<f32>) {
        (self.image_id, self.feature)
    }
}

#[derive(Deserialize)]
struct TextRow {
    text_id: u64,
    feature: Vec<f32>,
}

impl Row for TextRow {
    const EXPECTED: &'static str = "{\"text_id\": 1, \"feature\": [0.1, …]} with finite numbers";
    fn parts(self) -> (u64, Vec<f32>) {
        (self.text_id, self.feature)
    }
}

/// A line of a relevance file, from either side.
#[derive(Deserialize)]
#[serde(untagged)]
enum Relevance {
    OfText { text_id: u64, image_ids: Vec<u64> },
    OfImage { image_id: u64, text_ids: Vec<u64> },
}

/// The features of a file, in its order.
struct Table {
    file: String,
    places: HashMap<u64, usize>,
    values: Vec<f32>,
    width: usize,
}

impl Table {
    fn read<R: Row>(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let mut table = Self { file, places: HashMap::new(), values: Vec::new(), width: 0 };
        Lines::open(path, R::EXPECTED)?.each(|place, row: R| {
            let (id, feature) = row.parts();
            table.add(id, &feature).map_err(|why| Error::Data(format!("{place}: {why}.")))
        })?;
        match table.places.is_empty() {
            true => Err(Error::Data(format!("{} holds no feature.", table.file))),
            false => Ok(table),
        }
    }

    fn add(&mut self, id: u64, feature: &[f32]) -> Result<(), String> {
        if let Some(place) = feature.iter().position(|value| !value.is_finite()) {
            return Err(format!("number {place} of feature {id} is no finite 32-bit number"));
        }
        if self.places.is_empty() {
            self.width = feature.len();
        }
        if feature.is_empty() || feature.len() != self.width {
            let (found, expected) = (feature.len(), self.width);
            return Err(format!("feature {id} has {found} numbers, the first has {expected}"));
        }
        if self.places.insert(id, self.places.len()).is_some() {
            return Err(format!("feature {id} was given before"));
        }
        self.values.extend(feature);
        Ok(())
    }

    fn place(&self, id: u64) -> Result<usize, String> {
        self.places.get(&id).copied().ok_or_else(|| format!("{} has no feature {id}", self.file))
    }

    fn features(&self) -> Features<'_> {
        Features::new(&self.values, self.width)
    }
}

/// Recall in both directions of features in the reference's JSON lines.
///
/// `relevance` has lines of `text_id` and `image_ids`, or of `image_id` and `text_ids`, or of both.
///
/// # Errors
/// A line that is none, a feature given twice or of another length, an id without a feature.
///
/// # Guarantees
/// As [`Retrieval::of`]: a query that nothing is relevant to counts for nothing.
pub fn score(images: &Path, texts: &Path, relevance: &Path) -> Result<Recalls> {
    let (images, texts) = (Table::read::<ImageRow>(images)?, Table::read::<TextRow>(texts)?);
    if images.width != texts.width {
        return Err(Error::Data(format!(
            "{} has features of {} numbers and {} of {}. Take both from one model.",
            images.file, images.width, texts.file, texts.width
        )));
    }
    let relevant = read(relevance, &images, &texts)?;
    let pool = Pool { texts: texts.features(), images: images.features(), relevant: &relevant };
    Retrieval::of(pool).recalls().ok_or_else(|| Error::Bug("labels were looked for".into()))
}

/// For each text, the images it describes.
fn read(path: &Path, images: &Table, texts: &Table) -> Result<Vec<Vec<usize>>> {
    let mut relevant = vec![Vec::new(); texts.places.len()];
    let expected =
        "{\"text_id\": 1, \"image_ids\": [2, …]} or {\"image_id\": 2, \"text_ids\": [1, …]}";
    Lines::open(path, expected)?.each(|place, line: Relevance| {
        let pairs: Vec<_> = match line {
            Relevance::OfText { text_id, image_ids } => {
                image_ids.into_iter().map(|image| (text_id, image)).collect()
            }
            Relevance::OfImage { image_id, text_ids } => {
                text_ids.into_iter().map(|text| (text, image_id)).collect()
            }
        };
        for (text, image) in pairs {
            let known = |why| Error::Data(format!("{place}: {why}."));
            let (text, image) = (texts.place(text), images.place(image));
            relevant[text.map_err(known)?].push(image.map_err(known)?);
        }
        Ok(())
    })?;
    match relevant.iter().all(Vec::is_empty) {
        true => Err(Error::Data(format!("{} says of no text what it describes.", path.display()))),
        false => Ok(relevant),
    }
}
