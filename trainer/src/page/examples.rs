//! The queries that a page shows: some as they come, and the ones that went most wrong. Scores
//! nothing anew.

use std::collections::HashMap;

use serde::Serialize;

use super::thumbnail::thumbnail_data_uri;
use crate::error::Result;
use crate::evaluate::ScoredRetrieval;
use crate::evaluate::retrieval::first_hit;
use cnclip_compute::math::dot_product;
use cnclip_data::shard::Dataset;

/// Queries shown as they come.
const MAX_TYPICAL_QUERIES: usize = 16;
/// Queries shown because they went wrong.
const MAX_WORST_QUERIES: usize = 6;
/// Answers shown of each.
const MAX_ANSWERS: usize = 5;

/// An image that a text was answered with.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RetrievedImage {
    /// The image as a `data:` URI; `None` if it cannot be shown.
    pub thumbnail: Option<String>,
    /// The first text that belongs to it.
    pub text: String,
    /// Whether the query does.
    pub right: bool,
    /// How similar it is to the query.
    pub similarity: f32,
}

/// A text, and the images that the model finds most similar to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct QueryExample {
    /// The query.
    pub text: String,
    /// The best, best first.
    pub answers: Vec<RetrievedImage>,
    /// The right image of a query that went wrong.
    pub wanted: Option<RetrievedImage>,
    /// Its place among all images, from 1.
    pub place: Option<usize>,
}

/// The examples of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RetrievalExamples {
    /// Evenly spread over the queries.
    pub usual: Vec<QueryExample>,
    /// Those whose right image is furthest below the best.
    pub worst: Vec<QueryExample>,
}

impl RetrievalExamples {
    /// Chooses the examples of a task and fetches their images.
    ///
    /// # Errors
    /// If the store fails.
    pub fn from_scored(scored: &ScoredRetrieval, dataset: &Dataset) -> Result<Self> {
        let usual = typical_queries(scored);
        let worst = worst_queries(scored);
        let shown: Vec<usize> = (usual.iter().chain(&worst))
            .flat_map(|&text| top_images(scored, text).chain(best_relevant_image(scored, text)))
            .collect();

        let files = scored.corpus.read_images(dataset, &shown)?;
        let carry =
            |(image, file): (usize, bytes::Bytes)| Some((image, thumbnail_data_uri(&file)?));
        let thumbnails: HashMap<usize, String> = files.into_iter().filter_map(carry).collect();
        let example = |text: usize| QueryExample::from_query(scored, text, &thumbnails);
        let failed = |text: usize| QueryExample {
            wanted: best_relevant_image(scored, text)
                .map(|image| describe_retrieved_image(scored, text, image, &thumbnails)),
            place: best_relevant_image(scored, text).map(|image| image_rank(scored, text, image)),
            ..example(text)
        };

        Ok(Self {
            usual: usual.into_iter().map(example).collect(),
            worst: worst.into_iter().map(failed).collect(),
        })
    }
}

impl QueryExample {
    fn from_query(
        scored: &ScoredRetrieval,
        text: usize,
        thumbnails: &HashMap<usize, String>,
    ) -> Self {
        let answers = top_images(scored, text);
        Self {
            text: scored.corpus.texts[text].text.clone(),
            answers: answers
                .map(|image| describe_retrieved_image(scored, text, image, thumbnails))
                .collect(),
            ..Self::default()
        }
    }
}

fn top_images(scored: &ScoredRetrieval, text: usize) -> impl Iterator<Item = usize> {
    let nearest = &scored.retrieval.text_to_image.nearest[text];
    nearest.iter().take(MAX_ANSWERS).map(|near| near.index)
}

fn describe_retrieved_image(
    scored: &ScoredRetrieval,
    text: usize,
    image: usize,
    thumbnails: &HashMap<usize, String>,
) -> RetrievedImage {
    let texts = &scored.retrieval.image_to_text.relevant[image];
    let first_text = texts
        .first()
        .map(|&text| scored.corpus.texts[text].text.clone());

    RetrievedImage {
        thumbnail: thumbnails.get(&image).cloned(),
        text: first_text.unwrap_or_default(),
        right: scored.corpus.relevant[text].contains(&image),
        similarity: query_similarity(scored, text, image),
    }
}

/// Queries that can be answered, evenly spread; any where no right answer is known.
fn typical_queries(scored: &ScoredRetrieval) -> Vec<usize> {
    let relevant = &scored.corpus.relevant;
    let labelled = scored.retrieval.text_to_image.recall.is_some();
    let able = |&text: &usize| !labelled || !relevant[text].is_empty();
    let able: Vec<_> = (0..relevant.len()).filter(able).collect();
    let count = able.len().min(MAX_TYPICAL_QUERIES);

    // Midpoints of equal parts, not random: pages of two models show the same queries.
    (0..count)
        .map(|number| able[(2 * number + 1) * able.len() / (2 * count)])
        .collect()
}

/// Queries that nothing right was found for, by how far it is below the best.
fn worst_queries(scored: &ScoredRetrieval) -> Vec<usize> {
    let nearest = &scored.retrieval.text_to_image.nearest;
    let missed = |&text: &usize| first_hit(&nearest[text], &scored.corpus.relevant[text]).is_none();
    let gap = |text: usize| {
        let best = nearest[text].first()?.index;
        let below = query_similarity(scored, text, best)
            - query_similarity(scored, text, best_relevant_image(scored, text)?);
        Some((below, text))
    };

    let mut gaps: Vec<_> = (0..nearest.len()).filter(missed).filter_map(gap).collect();
    gaps.sort_by(|a, b| b.0.total_cmp(&a.0));
    gaps.into_iter()
        .take(MAX_WORST_QUERIES)
        .map(|(_, text)| text)
        .collect()
}

/// The right image that is most similar to the query.
fn best_relevant_image(scored: &ScoredRetrieval, text: usize) -> Option<usize> {
    let right = scored.corpus.relevant[text].iter().copied();
    right.max_by(|&a, &b| {
        query_similarity(scored, text, a).total_cmp(&query_similarity(scored, text, b))
    })
}

/// The place of an image among all, from 1.
fn image_rank(scored: &ScoredRetrieval, text: usize, image: usize) -> usize {
    let own = query_similarity(scored, text, image);
    let better = |&other: &usize| query_similarity(scored, text, other) > own;
    (0..scored.corpus.images.len()).filter(better).count() + 1
}

fn query_similarity(scored: &ScoredRetrieval, text: usize, image: usize) -> f32 {
    let pool = scored.corpus.retrieval_pool();
    dot_product(pool.texts.row(text), pool.images.row(image))
}
