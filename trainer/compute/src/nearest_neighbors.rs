//! Exact nearest-neighbor search by inner product, in blocks: the similarity matrix is never held as a whole.

use rayon::prelude::*;

use crate::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut, gemm_f32};

/// Queries that one thread compares at a time: candidates are read from memory once per block of queries.
const QUERY_BLOCK_ROWS: usize = 512;
/// Candidates that a block of queries is compared with at a time. The similarities of a block are 1 MiB, which
/// stays in the second-level cache between the matrix multiplication and the selection.
const CANDIDATE_BLOCK_ROWS: usize = 512;
/// Similarities tested at once against the current worst neighbor, as vector code.
const LANES: usize = 64;

/// Feature vectors, one after the other.
///
/// # Shapes
/// `[count, width]`
///
/// # Examples
/// ```
/// use cnclip_compute::nearest_neighbors::{FeatureMatrix, nearest_neighbors};
///
/// let texts = FeatureMatrix::new(&[1.0, 0.0], 2);
/// let images = FeatureMatrix::new(&[0.0, 1.0, 0.6, 0.8, 1.0, 0.0], 2);
///
/// let nearest = nearest_neighbors(texts, images, 2);
/// let indices: Vec<usize> = nearest[0].iter().map(|image| image.index).collect();
/// assert_eq!(indices, [2, 1]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FeatureMatrix<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> FeatureMatrix<'a> {
    /// The rows of `width` values in `values`.
    ///
    /// # Panics
    /// If `values` is not a whole number of rows.
    pub fn new(values: &'a [f32], width: usize) -> Self {
        assert!(
            width > 0 && values.len().is_multiple_of(width),
            "the values must be a whole number of rows"
        );

        Self { values, width }
    }

    /// Number of vectors.
    pub fn count(&self) -> usize {
        self.values.len() / self.width
    }

    /// Dimension of the vectors.
    pub fn width(&self) -> usize {
        self.width
    }

    /// One vector.
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// All values, row by row.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    fn row_blocks(&self, rows: usize) -> impl IndexedParallelIterator<Item = MatrixView<'a>> {
        let width = self.width;
        self.values
            .par_chunks(rows * width)
            .map(move |block| MatrixView::new(block, width))
    }
}

/// A candidate and its similarity to the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbor {
    /// Index of the candidate.
    pub index: usize,
    /// Inner product with the query; negative infinity where that is NaN.
    pub similarity: f32,
}

/// Finds for each query the `count` candidates with the largest inner product, in descending order; all
/// candidates where there are fewer.
///
/// # Guarantees
/// Ties are ranked by index, as in a stable sort, so that the result does not depend on the blocks or on the
/// number of threads. NaN ranks last. Working memory is a few MiB per thread for any number of candidates.
pub fn nearest_neighbors(
    queries: FeatureMatrix<'_>,
    candidates: FeatureMatrix<'_>,
    count: usize,
) -> Vec<Vec<Neighbor>> {
    assert_eq!(
        queries.width, candidates.width,
        "queries and candidates must have the same dimension"
    );

    // Few queries are divided among all threads; many are compared in blocks large enough for an efficient GEMM.
    let share = queries.count().div_ceil(rayon::current_num_threads());
    let blocks = queries.row_blocks(share.clamp(1, QUERY_BLOCK_ROWS));
    blocks
        .flat_map_iter(|block| nearest_to_query_block(block, candidates, count))
        .collect()
}

fn nearest_to_query_block(
    queries: MatrixView<'_>,
    candidates: FeatureMatrix<'_>,
    count: usize,
) -> impl Iterator<Item = Vec<Neighbor>> {
    let mut best = vec![TopCandidates::new(count); queries.rows()];
    let mut similarities = Vec::new();
    let step = CANDIDATE_BLOCK_ROWS * candidates.width;

    for (number, values) in candidates.values.chunks(step).enumerate() {
        let block = MatrixView::new(values, candidates.width);
        similarities.resize(queries.rows() * block.rows(), 0.0);
        let target = MatrixViewMut::new(&mut similarities, block.rows());
        gemm_f32(
            target,
            Accumulate::No,
            1.0,
            queries,
            block.transposed(),
            // Rayon already runs one block of queries per thread.
            GemmThreads::One,
        );

        for (best, row) in best.iter_mut().zip(similarities.chunks(block.rows())) {
            best.offer_block(number * CANDIDATE_BLOCK_ROWS, row);
        }
    }

    best.into_iter().map(|best| best.neighbors)
}

/// The nearest candidates so far, in descending order of similarity.
#[derive(Clone, Debug)]
struct TopCandidates {
    neighbors: Vec<Neighbor>,
    count: usize,
}

impl TopCandidates {
    fn new(count: usize) -> Self {
        Self {
            // One more: a candidate is inserted before the last one is truncated.
            neighbors: Vec::with_capacity(count + 1),
            count,
        }
    }

    /// Offers the candidates from index `first` on, which must be higher than all indices before.
    fn offer_block(&mut self, first: usize, similarities: &[f32]) {
        for (first, lanes) in (first..).step_by(LANES).zip(similarities.chunks(LANES)) {
            // Folding without a branch lets the compiler emit vector code. After the first blocks nearly all
            // lanes fail this test, so that insertion, which is scalar, costs little.
            // A tie with the worst neighbor loses (`>`), because its index is higher.
            let worst = self.worst_similarity();
            if lanes.iter().fold(false, |any, &one| any | (one > worst)) || !self.is_full() {
                (first..)
                    .zip(lanes)
                    .for_each(|(index, &similarity)| self.insert_candidate(index, similarity));
            }
        }
    }

    fn is_full(&self) -> bool {
        self.neighbors.len() >= self.count
    }

    /// The similarity that a candidate must exceed.
    fn worst_similarity(&self) -> f32 {
        // Infinity for an empty list, so that a search for 0 candidates accepts none. A list that
        // is not full accepts candidates whatever their similarity.
        self.neighbors
            .last()
            .map_or(f32::INFINITY, |near| near.similarity)
    }

    /// Inserts a candidate behind all that are at least as similar: candidates come in ascending order of index,
    /// so ties are in the order of index.
    fn insert_candidate(&mut self, index: usize, similarity: f32) {
        // NaN has no order: as negative infinity it ranks last and leaves the list sorted.
        let similarity = if similarity.is_nan() {
            f32::NEG_INFINITY
        } else {
            similarity
        };

        // The test in `offer_block` used the worst neighbor from before this group was inserted.
        if self.is_full() && similarity <= self.worst_similarity() {
            return;
        }

        let place = self
            .neighbors
            .partition_point(|better| better.similarity >= similarity);

        self.neighbors.insert(place, Neighbor { index, similarity });
        self.neighbors.truncate(self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{derive_key, uniform_f32};

    /// The definition: every similarity, and a stable sort.
    fn sorted(
        queries: FeatureMatrix<'_>,
        candidates: FeatureMatrix<'_>,
        count: usize,
    ) -> Vec<Vec<usize>> {
        let dot = |q: usize, c: usize| -> f32 {
            queries
                .row(q)
                .iter()
                .zip(candidates.row(c))
                .map(|(a, b)| a * b)
                .sum()
        };

        let order = |q| {
            let mut order: Vec<usize> = (0..candidates.count()).collect();
            order.sort_by(|&a, &b| dot(q, b).total_cmp(&dot(q, a)));
            order.truncate(count);
            order
        };

        (0..queries.count()).map(order).collect()
    }

    fn places(
        queries: FeatureMatrix<'_>,
        candidates: FeatureMatrix<'_>,
        count: usize,
    ) -> Vec<Vec<usize>> {
        let found = nearest_neighbors(queries, candidates, count).into_iter();
        found
            .map(|row| row.iter().map(|near| near.index).collect())
            .collect()
    }

    /// Small integers: their inner products are exact, and many are equal.
    fn small(count: usize, width: usize, seed: u64) -> Vec<f32> {
        let draw = |i| (uniform_f32(derive_key(seed, i)) * 5.0).floor() - 2.0;
        (0..(count * width) as u64).map(draw).collect()
    }

    #[test]
    fn the_best_are_those_of_a_stable_sort_over_everything_in_every_block() {
        for (queries, candidates) in [(1, 1), (3, 9), (65, 4097), (1030, 513), (2, 9000)] {
            let q = small(queries, 3, 1);
            let c = small(candidates, 3, 2);
            let q = FeatureMatrix::new(&q, 3);
            let c = FeatureMatrix::new(&c, 3);
            assert_eq!(
                places(q, c, 10),
                sorted(q, c, 10),
                "{queries} × {candidates}"
            );
        }
    }

    #[test]
    fn a_similarity_that_is_not_a_number_comes_last() {
        let candidates = [f32::NAN, 1.0, f32::NAN, 2.0, -3.0];
        let found = nearest_neighbors(
            FeatureMatrix::new(&[1.0], 1),
            FeatureMatrix::new(&candidates, 1),
            4,
        );
        let places: Vec<_> = found[0].iter().map(|near| near.index).collect();
        assert_eq!(places, [3, 1, 4, 0]);
        let similarities: Vec<_> = found[0].iter().map(|near| near.similarity).collect();

        assert_eq!(similarities, [2.0, 1.0, -3.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn a_pool_of_fewer_than_asked_for_is_ordered_whole() {
        let axes = [1.0, 0.0, 0.5, 0.5, 0.0, 1.0];
        let found = places(
            FeatureMatrix::new(&[0.0, 1.0], 2),
            FeatureMatrix::new(&axes, 2),
            10,
        );
        assert_eq!(found, [[2, 1, 0]]);
    }

    #[test]
    fn nothing_is_found_among_nothing() {
        let none = FeatureMatrix::new(&[], 2);
        assert_eq!(
            places(FeatureMatrix::new(&[1.0, 0.0], 2), none, 10),
            [[0usize; 0]]
        );

        assert!(nearest_neighbors(none, FeatureMatrix::new(&[1.0, 0.0], 2), 10).is_empty());
        let axes = FeatureMatrix::new(&[1.0, 0.0, 0.0, 1.0], 2);
        assert_eq!(places(axes, axes, 0), [[0usize; 0]; 2]);
    }
}
