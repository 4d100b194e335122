//! Which pairs of a batch are right for each other. Knows no features.

use cnclip_compute::digest::Fingerprint;

/// For each pair of a batch the pairs that are right for it: itself, and those that have the same
/// picture or the same caption, once that was asked for.
///
/// # Guarantees
/// Right for each other is said in both directions.
#[derive(Debug)]
pub struct Targets {
    images: Groups,
    texts: Groups,
    shares: Vec<f32>,
}

/// Numbers, and who has the same.
#[derive(Debug)]
struct Groups {
    numbers: Vec<u64>,
    /// Pairs, sorted by their numbers.
    sorted: Vec<u32>,
    /// Where the equals of a pair are in `sorted`.
    places: Vec<(u32, u32)>,
}

impl Targets {
    /// Each of at most so many pairs is right for itself.
    pub(super) fn new(pairs: usize) -> Self {
        let images = Groups::new(pairs);
        let texts = Groups::new(pairs);
        Self {
            images,
            texts,
            shares: vec![1.0; pairs],
        }
    }

    /// Pairs with equal pictures or equal captions are right for each other in the next batch.
    pub fn match_equal(&mut self, batch: &[Fingerprint]) {
        self.images.sort(batch.iter().map(|pair| pair.image));
        self.texts.sort(batch.iter().map(|pair| pair.text));
        for pair in 0..batch.len() {
            self.shares[pair] = 1.0 / self.of(pair).count() as f32;
        }
    }

    /// The pairs that are right for one.
    pub(super) fn of(&self, pair: usize) -> impl Iterator<Item = usize> {
        let others = self.texts.of(pair);
        self.images
            .of(pair)
            .chain(others.filter(move |&other| !self.images.same(pair, other)))
    }

    /// What each of them is worth: together one.
    pub(super) fn share(&self, pair: usize) -> f32 {
        self.shares[pair]
    }

    /// What each of so many pairs is worth to those that it is right for.
    pub(super) fn shares(&self, pairs: usize) -> &[f32] {
        &self.shares[..pairs]
    }

    /// A number for the picture of each pair, and one for its caption: equal for equal ones.
    pub(super) fn groups(&self) -> [impl Fn(usize) -> u32; 2] {
        [&self.images, &self.texts].map(|groups| |pair: usize| groups.places[pair].0)
    }

    /// Whether two pairs are right for each other.
    pub(super) fn right(&self, pair: usize, other: usize) -> bool {
        self.images.same(pair, other) || self.texts.same(pair, other)
    }
}

impl Groups {
    /// So many pairs with a number of their own.
    fn new(pairs: usize) -> Self {
        let sorted = (0..pairs as u32).collect();
        let places = (0..pairs as u32).map(|pair| (pair, pair + 1)).collect();
        Self {
            numbers: (0..pairs as u64).collect(),
            sorted,
            places,
        }
    }

    fn sort(&mut self, numbers: impl ExactSizeIterator<Item = u64>) {
        let pairs = numbers.len();
        self.numbers
            .iter_mut()
            .zip(numbers)
            .for_each(|(old, new)| *old = new);

        let numbers = &self.numbers;
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
                .for_each(|&pair| self.places[pair as usize] = (start, end));

            start = end;
        }
    }

    /// The pairs with the same number, in order; itself among them.
    fn of(&self, pair: usize) -> impl Iterator<Item = usize> {
        let (start, end) = self.places[pair];
        self.sorted[start as usize..end as usize]
            .iter()
            .map(|&pair| pair as usize)
    }

    fn same(&self, pair: usize, other: usize) -> bool {
        self.numbers[pair] == self.numbers[other]
    }
}
