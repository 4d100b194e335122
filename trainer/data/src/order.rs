//! Decides which samples make the global batch of a step: a pure function of seed, data set and step,
//! however many ranks and threads share the work. Never reads a shard.
//!
//! Every epoch permutes the shards, cuts them into windows of about [`SHUFFLE_WINDOW_BYTES`] and permutes
//! the samples of each window. A data set smaller than a window is one uniform permutation; a larger
//! one is read nearly in sequence and held one window at a time.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::recent_cache::RecentCache;
use crate::shard::{IndexedFile, ShardIndex};
use crate::splitmix::SplitMix64;

/// Bytes of shards that are shuffled together. More mixes better and holds more in memory.
pub const SHUFFLE_WINDOW_BYTES: u64 = 1 << 30;
/// Windows kept permuted: a batch touches two, its replacements may touch the next.
const MAX_CACHED_WINDOWS: usize = 4;

/// A sample at its position in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleRef {
    /// The shard that holds it.
    pub shard: u32,
    /// Its index among the image-text pairs of that shard.
    pub pair: u32,
    epoch: u64,
    position: u64,
}

/// Draws the batches of a run.
///
/// ```
/// use cnclip_data::order::BatchSampler;
/// use cnclip_data::shard::{IndexedFile, ShardIndex};
///
/// # fn main() -> cnclip_data::error::Result<()> {
/// let shards = vec![
///     IndexedFile::new("00000.tar", b"two images, three texts", 2, 3),
///     IndexedFile::new("00001.tar", b"four images, five texts", 4, 5),
/// ];
///
/// let index = ShardIndex::new(shards, None);
/// let sampler = BatchSampler::new(&index, 7, 4)?;
/// assert_eq!(sampler.steps_per_epoch(), 2);
///
/// // Any step can be drawn at any time, which is what makes a run resumable.
/// let batch = sampler.draw_batch(1);
/// assert_eq!(batch.len(), 4);
/// assert_eq!(batch, BatchSampler::new(&index, 7, 4)?.draw_batch(1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BatchSampler {
    seed: u64,
    dataset: String,
    shards: Vec<ShardSize>,
    pairs: u64,
    global_batch: u64,
    window_bytes: u64,
    windows: RecentCache<ShuffleWindow>,
}

#[derive(Clone, Copy, Debug)]
struct ShardSize {
    bytes: u64,
    pairs: u64,
}

/// Shards that are shuffled together.
#[derive(Debug)]
struct ShuffleWindow {
    epoch: u64,
    /// The first position in the epoch that it covers.
    start: u64,
    /// The sample at each position.
    pairs: Vec<WindowPair>,
}

// 12 bytes each, because a window of small images has millions.
#[derive(Clone, Copy, Debug)]
struct WindowPair {
    /// Rank of the shard in the epoch's order of shards.
    shard_rank: u32,
    shard: u32,
    pair: u32,
}

/// The shards of a window.
struct WindowBounds {
    /// Their ranks in the epoch's order of shards.
    shard_ranks: Range<usize>,
    /// The first position in the epoch that the window covers.
    start: u64,
}

impl ShuffleWindow {
    fn covers_position(&self, epoch: u64, position: u64) -> bool {
        let end = self.start + self.pairs.len() as u64;
        self.epoch == epoch && (self.start..end).contains(&position)
    }
}

impl BatchSampler {
    /// Draws batches of `global_batch` samples from a data set.
    ///
    /// # Errors
    /// If a batch needs more samples than there are.
    pub fn new(index: &ShardIndex, seed: u64, global_batch: usize) -> Result<Self> {
        if index.pairs == 0 {
            return Err(Error::Data(
                "the data set has no pairs of an image and a text, so nothing can be trained on it: none of its \
                 images has a caption. `cnclip prepare` says what it found in place of captions."
                    .into(),
            ));
        }

        if global_batch == 0 || (global_batch as u64) > index.pairs {
            return Err(Error::Config(format!(
                "a global batch of {global_batch} cannot be drawn from a data set of {} pairs. Set \
                 the global batch size between 1 and {}.",
                index.pairs, index.pairs
            )));
        }

        Ok(Self {
            seed,
            dataset: index.dataset.clone(),
            shards: index.shards.iter().map(ShardSize::from).collect(),
            pairs: index.pairs,
            global_batch: global_batch as u64,
            window_bytes: SHUFFLE_WINDOW_BYTES,
            windows: RecentCache::new(MAX_CACHED_WINDOWS),
        })
    }

    /// Steps of one epoch: whole batches. The samples left over at its end are others every epoch.
    ///
    /// # Source
    /// The reference fills the last batch up with samples from the beginning of the epoch instead.
    pub fn steps_per_epoch(&self) -> u64 {
        self.pairs / self.global_batch
    }

    /// The global batch of a step. Its samples are grouped by shard, in the order that the epoch gives
    /// the shards, so that each rank's part of it lies in few of them.
    pub fn draw_batch(&self, step: u64) -> Vec<SampleRef> {
        let epoch = step / self.steps_per_epoch();
        let first = step % self.steps_per_epoch() * self.global_batch;
        let positions = first..first + self.global_batch;
        let mut batch: Vec<_> = positions
            .map(|position| self.sample_at(epoch, position))
            .collect();

        // A stable sort: samples of one shard keep their random order, on every rank the same. Which samples
        // a batch has is decided already, and their order within it changes no gradient of the whole batch.
        batch.sort_by_key(|(shard_rank, _)| *shard_rank);
        batch.into_iter().map(|(_, sample)| sample).collect()
    }

    /// The sample to use where one cannot be: the one at its position a batch later; the next attempt takes the one two
    /// batches later, and so on.
    ///
    /// A function of the sample alone, so that every rank and every resumed run takes the same one. It is in the same
    /// batch only where a batch is the whole data set: there it would be its own negative.
    pub fn replacement_for(&self, sample: &SampleRef, attempt: u64) -> SampleRef {
        let place = sample.position % self.global_batch;
        let first = sample.position - place;
        let step = place + attempt * self.global_batch;

        // Counted around the samples outside the batch; where there is none, around the batch itself.
        let position = match self.pairs - self.global_batch {
            0 => place + attempt + 1,
            others => self.global_batch + step % others,
        };

        self.sample_at(sample.epoch, (first + position) % self.pairs)
            .1
    }

    /// The sample at a position of an epoch, and the rank of its shard there.
    fn sample_at(&self, epoch: u64, position: u64) -> (u32, SampleRef) {
        let window = self.cached_window(epoch, position);
        let WindowPair {
            shard_rank,
            shard,
            pair,
        } = window.pairs[(position - window.start) as usize];

        let sample = SampleRef {
            shard,
            pair,
            epoch,
            position,
        };

        (shard_rank, sample)
    }

    /// The window that covers a position, permuted once and then cached.
    fn cached_window(&self, epoch: u64, position: u64) -> Arc<ShuffleWindow> {
        self.windows.get_or_insert_with(
            |window| window.covers_position(epoch, position),
            || self.shuffle_window(epoch, position),
        )
    }

    fn shuffle_window(&self, epoch: u64, position: u64) -> ShuffleWindow {
        // The whole order of shards for every window: thousands of numbers, against millions of samples below.
        let mut shards: Vec<u32> = (0..self.shards.len() as u32).collect();
        self.seeded_rng(epoch, "shards").shuffle(&mut shards);
        let WindowBounds { shard_ranks, start } = self.window_bounds(&shards, position);
        let mut pairs: Vec<_> = shard_ranks
            .flat_map(|shard_rank| {
                let shard = shards[shard_rank];
                let pairs = self.shards[shard as usize].pairs as u32;
                (0..pairs).map(move |pair| WindowPair {
                    shard_rank: shard_rank as u32,
                    shard,
                    pair,
                })
            })
            .collect();

        // Its start names a window: two windows of an epoch must not be permuted alike.
        self.seeded_rng(epoch, &format!("pairs from {start}"))
            .shuffle(&mut pairs);
        ShuffleWindow {
            epoch,
            start,
            pairs,
        }
    }

    /// The window that covers a position, by the epoch's order of shards: whole shards, until they have
    /// the bytes of a window.
    fn window_bounds(&self, shards: &[u32], position: u64) -> WindowBounds {
        let mut first = 0;
        let mut start = 0;
        let mut bytes = 0;
        let mut end = 0;

        for (shard_rank, shard) in shards.iter().enumerate() {
            let size = self.shards[*shard as usize];
            bytes += size.bytes;
            end += size.pairs;

            if bytes >= self.window_bytes {
                if position < end {
                    return WindowBounds {
                        shard_ranks: first..shard_rank + 1,
                        start,
                    };
                }

                first = shard_rank + 1;
                start = end;
                bytes = 0;
            }
        }

        WindowBounds {
            shard_ranks: first..shards.len(),
            start,
        }
    }

    /// The random numbers of one purpose.
    ///
    /// The digest of the data set is part of the seed: a run that is resumed on changed data would otherwise
    /// draw in the old order and never say so. Hashing makes the streams of near seeds independent.
    fn seeded_rng(&self, epoch: u64, purpose: &str) -> SplitMix64 {
        let Self { seed, dataset, .. } = self;
        let digest = Sha256::digest(format!("{seed} {dataset} {epoch} {purpose}"));
        let (first, _) = digest.as_slice().split_at(8);
        let seed = first
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte));
        SplitMix64::new(seed)
    }
}

impl From<&IndexedFile> for ShardSize {
    fn from(shard: &IndexedFile) -> Self {
        Self {
            bytes: shard.bytes,
            pairs: shard.pairs,
        }
    }
}

#[cfg(test)]
mod tests;
