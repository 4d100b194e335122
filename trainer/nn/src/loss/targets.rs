//! Which pairs of a batch are right for each other. Knows no features.

use cnclip_compute::digest::Fingerprint;

/// For each pair of a batch the pairs that are right for it: itself, and those that have the same
/// picture or the same caption, once that was asked for.
///
/// # Guarantees
/// Right for each other is said in both directions.
#[derive(Debug)]
pub struct MatchTargets {
    images: DuplicateGroups,
    texts: DuplicateGroups,
    target_weights: Vec<f32>,
}

/// Numbers, and who has the same.
#[derive(Debug)]
struct DuplicateGroups {
    values: Vec<u64>,
    /// Pairs, sorted by their numbers.
    sorted: Vec<u32>,
    /// Where the equals of a pair are in `sorted`.
    ranges: Vec<(u32, u32)>,
}

impl MatchTargets {
    /// Each of at most so many pairs is right for itself.
    pub(super) fn new(pairs: usize) -> Self {
        let images = DuplicateGroups::new(pairs);
        let texts = DuplicateGroups::new(pairs);
        Self {
            images,
            texts,
            target_weights: vec![1.0; pairs],
        }
    }

    /// Pairs with equal pictures or equal captions are right for each other in the next batch.
    pub fn match_equal(&mut self, batch: &[Fingerprint]) {
        self.images
            .group_by_value(batch.iter().map(|pair| pair.image));
        self.texts
            .group_by_value(batch.iter().map(|pair| pair.text));
        for pair in 0..batch.len() {
            self.target_weights[pair] = 1.0 / self.matching_samples(pair).count() as f32;
        }
    }

    /// The pairs that are right for one.
    pub(super) fn matching_samples(&self, pair: usize) -> impl Iterator<Item = usize> {
        let others = self.texts.group_members(pair);
        self.images
            .group_members(pair)
            .chain(others.filter(move |&other| !self.images.is_same_group(pair, other)))
    }

    /// What each of them is worth: together one.
    pub(super) fn target_weight(&self, pair: usize) -> f32 {
        self.target_weights[pair]
    }

    /// What each of so many pairs is worth to those that it is right for.
    pub(super) fn target_weights(&self, pairs: usize) -> &[f32] {
        &self.target_weights[..pairs]
    }

    /// A number for the picture of each pair, and one for its caption: equal for equal ones.
    pub(super) fn group_ids(&self) -> [impl Fn(usize) -> u32; 2] {
        [&self.images, &self.texts].map(|groups| |pair: usize| groups.ranges[pair].0)
    }

    /// Whether two pairs are right for each other.
    pub(super) fn is_match(&self, pair: usize, other: usize) -> bool {
        self.images.is_same_group(pair, other) || self.texts.is_same_group(pair, other)
    }
}

impl DuplicateGroups {
    /// So many pairs with a number of their own.
    fn new(pairs: usize) -> Self {
        let sorted = (0..pairs as u32).collect();
        let places = (0..pairs as u32).map(|pair| (pair, pair + 1)).collect();
        Self {
            values: (0..pairs as u64).collect(),
            sorted,
            ranges: places,
        }
    }

    fn group_by_value(&mut self, numbers: impl ExactSizeIterator<Item = u64>) {
        let pairs = numbers.len();
        self.values
            .iter_mut()
            .zip(numbers)
            .for_each(|(old, new)| *old = new);

        let numbers = &self.values;
        let sorted = &mut self.sorted[..pairs];
        sorted
            .iter_mut()
            .zip(0..)
            .for_each(|(place, pair)| *place = pair);

        sorted.sort_unstable_by_key(|&pair| (numbers[pair as usize], pair));
        let mut start = 0;
        for equals in sorted.chunk_by(|&a, &b| numbers[a as usize] == numbers[b as usize]) {
            let end = start + equals.len() as u32;
            equals
                .iter()
                .for_each(|&pair| self.ranges[pair as usize] = (start, end));

            start = end;
        }
    }

    /// The pairs with the same number, in order; itself among them.
    fn group_members(&self, pair: usize) -> impl Iterator<Item = usize> {
        let (start, end) = self.ranges[pair];
        self.sorted[start as usize..end as usize]
            .iter()
            .map(|&pair| pair as usize)
    }

    fn is_same_group(&self, pair: usize, other: usize) -> bool {
        self.values[pair] == self.values[other]
    }
}
