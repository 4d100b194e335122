//! Retrieval scored from features that anybody made, in the reference's files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::output;
use crate::error::{Error, Result};
use crate::evaluate::predictions::{self, IMAGE_TO_TEXT, TEXT_TO_IMAGE};
use crate::evaluate::predictions::{IMAGE_TO_TEXT_SCORE, TEXT_TO_IMAGE_SCORE};
use crate::evaluate::retrieval::{Pool, Retrieval};
use crate::evaluate::search::Features;
use cnclip_data::jsonl::Lines;
use cnclip_data::shard::Id;

/// A line of a feature file.
trait Row: DeserializeOwned {
    const EXPECTED: &'static str;
    fn parts(self) -> (Id, Vec<f32>);
}

#[derive(Deserialize)]
struct ImageRow {
    image_id: Id,
    feature: Vec<f32>,
}

impl Row for ImageRow {
    const EXPECTED: &'static str = "{\"image_id\": 1, \"feature\": [0.1, …]} with finite numbers";
    fn parts(self) -> (Id, Vec<f32>) {
        (self.image_id, self.feature)
    }
}

#[derive(Deserialize)]
struct TextRow {
    text_id: Id,
    feature: Vec<f32>,
}

impl Row for TextRow {
    const EXPECTED: &'static str = "{\"text_id\": 1, \"feature\": [0.1, …]} with finite numbers";
    fn parts(self) -> (Id, Vec<f32>) {
        (self.text_id, self.feature)
    }
}

/// A line of a relevance file, from either side.
#[derive(Deserialize)]
#[serde(untagged)]
enum Relevance {
    OfText { text_id: Id, image_ids: Vec<Id> },
    OfImage { image_id: Id, text_ids: Vec<Id> },
}

/// The features of a file, in its order.
struct Table {
    file: String,
    places: HashMap<Id, usize>,
    ids: Vec<Id>,
    values: Vec<f32>,
    width: usize,
}

impl Table {
    fn read<R: Row>(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let mut table = Self {
            file,
            places: HashMap::new(),
            ids: vec![],
            values: vec![],
            width: 0,
        };

        Lines::open(path, R::EXPECTED)?.each(|place, row: R| {
            let (id, feature) = row.parts();
            table
                .add(id, &feature)
                .map_err(|why| Error::Data(format!("{place}: {why}.")))
        })?;

        match table.places.is_empty() {
            true => Err(Error::Data(format!("{} holds no feature.", table.file))),
            false => Ok(table),
        }
    }

    fn add(&mut self, id: Id, feature: &[f32]) -> Result<(), String> {
        if let Some(place) = feature.iter().position(|value| !value.is_finite()) {
            return Err(format!(
                "number {place} of feature {id} is no finite 32-bit number"
            ));
        }

        if self.places.is_empty() {
            self.width = feature.len();
        }

        if feature.is_empty() || feature.len() != self.width {
            let found = feature.len();
            let expected = self.width;
            return Err(format!(
                "feature {id} has {found} numbers, the first has {expected}"
            ));
        }

        if self.places.insert(id.clone(), self.ids.len()).is_some() {
            return Err(format!("feature {id} was given before"));
        }

        self.ids.push(id);
        self.values.extend(feature);
        Ok(())
    }

    fn place(&self, id: &Id) -> Result<usize, String> {
        self.places
            .get(id)
            .copied()
            .ok_or_else(|| format!("{} has no feature {id}", self.file))
    }

    fn features(&self) -> Features<'_> {
        Features::new(&self.values, self.width)
    }
}

/// Features that were searched, and what their files call them.
#[derive(Debug)]
pub struct Searched {
    /// What the texts are called, in the order of their file.
    pub texts: Vec<Id>,
    /// What the images are called, in the order of their file.
    pub images: Vec<Id>,
    /// What was found.
    pub retrieval: Retrieval,
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
/// As [`Retrieval::of`]: a query that nothing is relevant to counts for nothing.
pub fn score(images: &Path, texts: &Path, relevance: Option<&Path>) -> Result<Searched> {
    let images = Table::read::<ImageRow>(images)?;
    let texts = Table::read::<TextRow>(texts)?;
    if images.width != texts.width {
        return Err(Error::Data(format!(
            "{} has features of {} numbers and {} of {}. Take both from one model.",
            images.file, images.width, texts.file, texts.width
        )));
    }

    let unknown = || vec![Vec::new(); texts.ids.len()];
    let relevant = relevance
        .map(|path| read(path, &images, &texts))
        .transpose()?;

    let relevant = relevant.unwrap_or_else(unknown);
    let pool = Pool {
        texts: texts.features(),
        images: images.features(),
        relevant: &relevant,
    };

    let retrieval = Retrieval::of(pool);
    Ok(Searched {
        texts: texts.ids,
        images: images.ids,
        retrieval,
    })
}

/// For each text, the images it describes.
fn read(path: &Path, images: &Table, texts: &Table) -> Result<Vec<Vec<usize>>> {
    let mut relevant = vec![Vec::new(); texts.places.len()];
    let expected =
        "{\"text_id\": 1, \"image_ids\": [2, …]} or {\"image_id\": 2, \"text_ids\": [1, …]}";
    Lines::open(path, expected)?.each(|place, line: Relevance| -> Result<()> {
        let pairs: Vec<_> = match line {
            Relevance::OfText { text_id, image_ids } => image_ids
                .into_iter()
                .map(|image| (text_id.clone(), image))
                .collect(),
            Relevance::OfImage { image_id, text_ids } => text_ids
                .into_iter()
                .map(|text| (text, image_id.clone()))
                .collect(),
        };

        for (text, image) in pairs {
            let known = |why| Error::Data(format!("{place}: {why}."));
            let text = texts.place(&text);
            let image = images.place(&image);
            relevant[text.map_err(known)?].push(image.map_err(known)?);
        }

        Ok(())
    })?;

    match relevant.iter().all(Vec::is_empty) {
        true => Err(Error::Data(format!(
            "{} says of no text what it describes.",
            path.display()
        ))),
        false => Ok(relevant),
    }
}

impl Searched {
    /// Writes what was found, and how good that is where it is known, into a folder.
    ///
    /// # Errors
    /// If a file cannot be written; each is there whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let ids = (self.texts.as_slice(), self.images.as_slice());
        let of_texts = &self.retrieval.text_to_image;
        let of_images = &self.retrieval.image_to_text;
        let write = |name: &str, rows: &dyn Fn(&mut BufWriter<&File>) -> io::Result<()>| {
            let path = folder.join(name);
            output::file(&path, |to| rows(to).map_err(Error::file("write", &path)))
        };

        write(TEXT_TO_IMAGE, &|to| {
            predictions::of_texts(ids, of_texts, to)
        })?;

        write(IMAGE_TO_TEXT, &|to| {
            predictions::of_images(ids, of_images, to)
        })?;

        for (name, found) in [
            (TEXT_TO_IMAGE_SCORE, of_texts),
            (IMAGE_TO_TEXT_SCORE, of_images),
        ] {
            if let Some(recall) = found.recall {
                write(name, &|to| output::line(to, &predictions::score(recall)))?;
            }
        }

        Ok(())
    }
}
