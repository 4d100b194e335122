//! Retrieval recall in both directions, from features and relevance labels.

mod presentation;

use cnclip_crds::tasks::{RecallAtK, RetrievalRecalls};

use cnclip_compute::nearest_neighbors::{FeatureMatrix, Neighbor, nearest_neighbors};
pub use presentation::log_validation;

/// Candidates kept for each query: as many as the largest k of recall at k.
pub const TOP_K: usize = 10;

/// Features of texts and images, with the labels of the data set.
///
/// # Examples
/// ```
/// use cnclip::evaluate::retrieval::{RetrievalPool, RetrievalResult};
/// use cnclip_compute::nearest_neighbors::FeatureMatrix;
///
/// let result = RetrievalResult::search_pool(RetrievalPool {
///     texts: FeatureMatrix::new(&[1.0, 0.0, 0.0, 1.0], 2),
///     images: FeatureMatrix::new(&[0.8, 0.6, 0.6, 0.8], 2),
///     relevant: &[vec![0], vec![0]],
/// });
///
/// let recalls = result.recalls().unwrap();
/// assert_eq!(recalls.text_to_image.r1, 50.0);
/// assert_eq!(recalls.image_to_text.r1, 100.0);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RetrievalPool<'a> {
    /// Normalized features of the texts.
    pub texts: FeatureMatrix<'a>,
    /// Normalized features of the images.
    pub images: FeatureMatrix<'a>,
    /// For each text, the images it describes.
    pub relevant: &'a [Vec<usize>],
}

/// One direction of a retrieval.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectionResult {
    /// Over the queries that have a relevant candidate; none if no query has.
    pub recall: Option<RecallAtK>,
    /// For each query its [`TOP_K`] nearest candidates, in descending order; all where there are fewer.
    pub nearest: Vec<Vec<Neighbor>>,
    /// For each query, the relevant candidates.
    pub relevant: Vec<Vec<usize>>,
    /// Queries without a relevant candidate, which are left out of recall.
    pub unanswerable: usize,
}

/// A retrieval in both directions.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrievalResult {
    /// Queries are texts, candidates are images.
    pub text_to_image: DirectionResult,
    /// Queries are images, candidates are texts.
    pub image_to_text: DirectionResult,
}

impl RetrievalResult {
    /// Searches the whole pool for each of its texts and images.
    ///
    /// # Guarantees
    /// The numbers of the reference: recall at k is the share of queries with at least one relevant
    /// candidate among the first k, and ties go to the candidate that comes first in the pool.
    pub fn search_pool(pool: RetrievalPool<'_>) -> Self {
        let RetrievalPool {
            texts,
            images,
            relevant,
        } = pool;

        let back = invert_relevance(relevant, images.count());
        Self {
            text_to_image: DirectionResult::new(
                nearest_neighbors(texts, images, TOP_K),
                relevant.to_vec(),
            ),
            image_to_text: DirectionResult::new(nearest_neighbors(images, texts, TOP_K), back),
        }
    }

    /// Recall in both directions; `None` without labels.
    pub fn recalls(&self) -> Option<RetrievalRecalls> {
        let text_to_image = self.text_to_image.recall;
        let image_to_text = self.image_to_text.recall;
        Some(RetrievalRecalls {
            text_to_image: text_to_image?,
            image_to_text: image_to_text?,
        })
    }
}

impl DirectionResult {
    fn new(nearest: Vec<Vec<Neighbor>>, relevant: Vec<Vec<usize>>) -> Self {
        let places = nearest.iter().zip(&relevant);
        let places: Vec<_> = places
            .map(|(found, right)| first_hit(found, right))
            .collect();

        let unanswerable = relevant.iter().filter(|right| right.is_empty()).count();
        // Counting queries without labels as misses would make recall depend on how complete the labels are.
        let queries = relevant.len() - unanswerable;
        let recall = (queries > 0).then(|| compute_recall(&places, queries));
        Self {
            recall,
            nearest,
            relevant,
            unanswerable,
        }
    }
}

/// Rank of the first relevant candidate, from 0.
pub fn first_hit(found: &[Neighbor], right: &[usize]) -> Option<usize> {
    found.iter().position(|near| right.contains(&near.index))
}

fn compute_recall(places: &[Option<usize>], queries: usize) -> RecallAtK {
    let share = |k| {
        let hits = places.iter().flatten().filter(|&&place| place < k).count();
        hits as f64 / queries as f64
    };

    // Ratios become percent last, in the order of the reference, so that the last bits are the same.
    let r1 = share(1);
    let r5 = share(5);
    let r10 = share(10);
    let mean = (r1 + r5 + r10) / 3.0;

    RecallAtK {
        r1: r1 * 100.0,
        r5: r5 * 100.0,
        r10: r10 * 100.0,
        mean_recall: mean * 100.0,
    }
}

/// For each image, the texts that describe it.
fn invert_relevance(relevant: &[Vec<usize>], images: usize) -> Vec<Vec<usize>> {
    let mut texts = vec![Vec::new(); images];
    for (text, right) in relevant.iter().enumerate() {
        right.iter().for_each(|&image| texts[image].push(text));
    }

    texts
}

#[cfg(test)]
mod tests;
