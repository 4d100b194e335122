//! Which samples of a batch match each other. Knows no features.

use crate::digest::Fingerprint;

/// For each sample of a batch the samples that match it: itself, and those that have the same image or the
/// same text, once that was asked for.
///
/// Data sets have several texts of an image. Within a batch each of them is a false negative of the
/// others, unless the targets say so.
///
/// # Guarantees
/// Matching is symmetric.
#[derive(Debug)]
pub struct MatchTargets {
    images: DuplicateGroups,
    texts: DuplicateGroups,
    target_weights: Vec<f32>,
}

/// Samples grouped by equal values.
#[derive(Debug)]
struct DuplicateGroups {
    values: Vec<u64>,
    /// Samples, sorted by their values.
    sorted: Vec<u32>,
    /// Where the group of a sample is in `sorted`.
    ranges: Vec<GroupRange>,
}

#[derive(Clone, Copy, Debug)]
struct GroupRange {
    start: u32,
    end: u32,
}

impl MatchTargets {
    /// Each of at most `capacity` samples matches itself alone.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            images: DuplicateGroups::new(capacity),
            texts: DuplicateGroups::new(capacity),
            target_weights: vec![1.0; capacity],
        }
    }

    /// Samples with equal images or equal texts match each other in the next batch.
    pub fn match_equal(&mut self, batch: &[Fingerprint]) {
        self.images
            .group_by_value(batch.iter().map(|sample| sample.image));
        self.texts
            .group_by_value(batch.iter().map(|sample| sample.text));

        for sample in 0..batch.len() {
            let matches = self.matching_samples(sample).count();
            self.target_weights[sample] = 1.0 / matches as f32;
        }
    }

    /// The samples that match one.
    pub(super) fn matching_samples(&self, sample: usize) -> impl Iterator<Item = usize> {
        let same_text = self.texts.group_members(sample);
        // A sample with the same image too was already counted.
        let same_text_only =
            same_text.filter(move |&other| !self.images.is_same_group(sample, other));
        self.images.group_members(sample).chain(same_text_only)
    }

    /// The target probability of each match of a sample: together one.
    pub(super) fn target_weight(&self, sample: usize) -> f32 {
        self.target_weights[sample]
    }

    /// The target probabilities of the first `count` samples' matches.
    pub(super) fn target_weights(&self, count: usize) -> &[f32] {
        &self.target_weights[..count]
    }

    /// A number for the image of each sample, and one for its text: equal for equal ones.
    pub(super) fn group_ids(&self) -> [impl Fn(usize) -> u32; 2] {
        [&self.images, &self.texts].map(|groups| |sample: usize| groups.ranges[sample].start)
    }

    /// Whether two samples match each other.
    pub(super) fn is_match(&self, sample: usize, other: usize) -> bool {
        self.images.is_same_group(sample, other) || self.texts.is_same_group(sample, other)
    }
}

impl DuplicateGroups {
    /// Samples in a group of their own each.
    fn new(capacity: usize) -> Self {
        let samples = 0..capacity as u32;
        let ranges = samples.clone().map(|sample| GroupRange {
            start: sample,
            end: sample + 1,
        });

        Self {
            values: (0..capacity as u64).collect(),
            ranges: ranges.collect(),
            sorted: samples.collect(),
        }
    }

    fn group_by_value(&mut self, values: impl ExactSizeIterator<Item = u64>) {
        let count = values.len();
        for (target, value) in self.values.iter_mut().zip(values) {
            *target = value;
        }

        // Sorting finds groups without a hash map, whose allocations a step has to do without.
        let values = &self.values;
        let sorted = &mut self.sorted[..count];
        for (target, sample) in sorted.iter_mut().zip(0..) {
            *target = sample;
        }

        // By the sample as well: members in order, so that sums over them are the same on every rank.
        sorted.sort_unstable_by_key(|&sample| (values[sample as usize], sample));
        let mut start = 0;
        for members in sorted.chunk_by(|&a, &b| values[a as usize] == values[b as usize]) {
            let end = start + members.len() as u32;
            for &sample in members {
                self.ranges[sample as usize] = GroupRange { start, end };
            }

            start = end;
        }
    }

    /// The samples of the same group, in order; itself among them.
    fn group_members(&self, sample: usize) -> impl Iterator<Item = usize> {
        let GroupRange { start, end } = self.ranges[sample];
        self.sorted[start as usize..end as usize]
            .iter()
            .map(|&member| member as usize)
    }

    fn is_same_group(&self, sample: usize, other: usize) -> bool {
        self.values[sample] == self.values[other]
    }
}
