//! The queries that a page shows: some as they come, and the ones that went most wrong. Scores
//! nothing anew.

use std::collections::HashMap;

use serde::Serialize;

use super::picture::data_uri;
use crate::error::Result;
use crate::evaluate::Scored;
use crate::evaluate::retrieval::first_hit;
use cnclip_compute::math::dot;
use cnclip_data::shard::Dataset;

/// Queries shown as they come.
const USUAL: usize = 16;
/// Queries shown because they went wrong.
const WORST: usize = 6;
/// Answers shown of each.
const ANSWERS: usize = 5;

/// A picture that a text was answered with.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Answer {
    /// The picture as a `data:` URI; `None` if it cannot be shown.
    pub picture: Option<String>,
    /// The first text that belongs to it.
    pub caption: String,
    /// Whether the query does.
    pub right: bool,
    /// How similar it is to the query.
    pub similarity: f32,
}

/// A text, and the pictures that the model finds most similar to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Example {
    /// The query.
    pub text: String,
    /// The best, best first.
    pub answers: Vec<Answer>,
    /// The right picture of a query that went wrong.
    pub wanted: Option<Answer>,
    /// Its place among all pictures, from 1.
    pub place: Option<usize>,
}

/// The examples of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Examples {
    /// Evenly spread over the queries.
    pub usual: Vec<Example>,
    /// Those whose right picture is furthest below the best.
    pub worst: Vec<Example>,
}

impl Examples {
    /// Chooses the examples of a task and fetches their pictures.
    ///
    /// # Errors
    /// If the store fails.
    pub fn of(scored: &Scored, dataset: &Dataset) -> Result<Self> {
        let usual = usual(scored);
        let worst = worst(scored);
        let shown: Vec<usize> = (usual.iter().chain(&worst))
            .flat_map(|&text| answers(scored, text).chain(wanted(scored, text)))
            .collect();

        let files = scored.gallery.pictures(dataset, &shown)?;
        let carry = |(image, file): (usize, bytes::Bytes)| Some((image, data_uri(&file)?));
        let pictures: HashMap<usize, String> = files.into_iter().filter_map(carry).collect();
        let example = |text: usize| Example::of(scored, text, &pictures);
        let failed = |text: usize| Example {
            wanted: wanted(scored, text).map(|image| answer(scored, text, image, &pictures)),
            place: wanted(scored, text).map(|image| place(scored, text, image)),
            ..example(text)
        };

        Ok(Self {
            usual: usual.into_iter().map(example).collect(),
            worst: worst.into_iter().map(failed).collect(),
        })
    }
}

impl Example {
    fn of(scored: &Scored, text: usize, pictures: &HashMap<usize, String>) -> Self {
        let answers = answers(scored, text);
        Self {
            text: scored.gallery.texts[text].text.clone(),
            answers: answers
                .map(|image| answer(scored, text, image, pictures))
                .collect(),
            ..Self::default()
        }
    }
}

fn answers(scored: &Scored, text: usize) -> impl Iterator<Item = usize> {
    let nearest = &scored.retrieval.text_to_image.nearest[text];
    nearest.iter().take(ANSWERS).map(|near| near.index)
}

fn answer(scored: &Scored, text: usize, image: usize, of: &HashMap<usize, String>) -> Answer {
    let texts = &scored.retrieval.image_to_text.relevant[image];
    let caption = texts
        .first()
        .map(|&text| scored.gallery.texts[text].text.clone());

    Answer {
        picture: of.get(&image).cloned(),
        caption: caption.unwrap_or_default(),
        right: scored.gallery.relevant[text].contains(&image),
        similarity: similarity(scored, text, image),
    }
}

/// Queries that can be answered, evenly spread; any where no right answer is known.
fn usual(scored: &Scored) -> Vec<usize> {
    let relevant = &scored.gallery.relevant;
    let labelled = scored.retrieval.text_to_image.recall.is_some();
    let able = |&text: &usize| !labelled || !relevant[text].is_empty();
    let able: Vec<_> = (0..relevant.len()).filter(able).collect();
    let count = able.len().min(USUAL);

    (0..count)
        .map(|number| able[(2 * number + 1) * able.len() / (2 * count)])
        .collect()
}

/// Queries that nothing right was found for, by how far it is below the best.
fn worst(scored: &Scored) -> Vec<usize> {
    let nearest = &scored.retrieval.text_to_image.nearest;
    let missed =
        |&text: &usize| first_hit(&nearest[text], &scored.gallery.relevant[text]).is_none();
    let gap = |text: usize| {
        let best = nearest[text].first()?.index;
        let below =
            similarity(scored, text, best) - similarity(scored, text, wanted(scored, text)?);
        Some((below, text))
    };

    let mut gaps: Vec<_> = (0..nearest.len()).filter(missed).filter_map(gap).collect();
    gaps.sort_by(|a, b| b.0.total_cmp(&a.0));
    gaps.into_iter().take(WORST).map(|(_, text)| text).collect()
}

/// The right picture that is most similar to the query.
fn wanted(scored: &Scored, text: usize) -> Option<usize> {
    let right = scored.gallery.relevant[text].iter().copied();
    right.max_by(|&a, &b| similarity(scored, text, a).total_cmp(&similarity(scored, text, b)))
}

/// The place of a picture among all, from 1.
fn place(scored: &Scored, text: usize, image: usize) -> usize {
    let own = similarity(scored, text, image);
    let better = |&other: &usize| similarity(scored, text, other) > own;
    (0..scored.gallery.images.len()).filter(better).count() + 1
}

fn similarity(scored: &Scored, text: usize, image: usize) -> f32 {
    let pool = scored.gallery.pool();
    dot(pool.texts.row(text), pool.images.row(image))
}
