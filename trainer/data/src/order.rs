//! Decides which pairs make the global batch of a step: a pure function of seed, data set and step,
//! however many ranks and threads share the work. Never reads a shard.
//!
//! Every epoch permutes the shards, cuts them into windows of about [`WINDOW_BYTES`] and permutes
//! the pairs of each window. A data set smaller than a window is one uniform permutation; a larger
//! one is read nearly in sequence and held one window at a time.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::recent_cache::RecentCache;
use crate::shard::ShardIndex;

/// Shards that are shuffled together. More mixes better and holds more in memory.
pub const SHUFFLE_WINDOW_BYTES: u64 = 1 << 30;
/// Windows kept permuted: a batch touches two, its replacements may touch the next.
const MAX_CACHED_WINDOWS: usize = 4;

/// A pair in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleRef {
    /// The shard that holds it.
    pub shard: u32,
    /// Its place among the pairs of that shard.
    pub pair: u32,
    epoch: u64,
    position: u64,
}

/// The order of a data set's pairs.
#[derive(Debug)]
pub struct BatchSampler {
    seed: u64,
    dataset: String,
    /// `(bytes, pairs)` of every shard.
    shards: Vec<(u64, u64)>,
    pairs: u64,
    global_batch: u64,
    window_bytes: u64,
    windows: RecentCache<ShuffleWindow>,
}

#[derive(Debug)]
struct ShuffleWindow {
    epoch: u64,
    /// Positions in the epoch that it covers.
    start: u64,
    /// `(place of the shard in the epoch, shard, pair)` at each position.
    pairs: Vec<(u32, u32, u32)>,
}

impl ShuffleWindow {
    fn covers_position(&self, epoch: u64, position: u64) -> bool {
        let end = self.start + self.pairs.len() as u64;
        self.epoch == epoch && (self.start..end).contains(&position)
    }
}

impl BatchSampler {
    /// The order of the pairs of `index` in batches of `global_batch`.
    ///
    /// # Errors
    /// If a batch needs more pairs than there are.
    pub fn new(index: &ShardIndex, seed: u64, global_batch: usize) -> Result<Self> {
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
            shards: index
                .shards
                .iter()
                .map(|shard| (shard.bytes, shard.pairs))
                .collect(),
            pairs: index.pairs,
            global_batch: global_batch as u64,
            window_bytes: SHUFFLE_WINDOW_BYTES,
            windows: RecentCache::new(MAX_CACHED_WINDOWS),
        })
    }

    /// Steps of one epoch: whole batches. The pairs left over at its end are others every epoch.
    ///
    /// # Source
    /// The reference fills the last batch up with pairs from the beginning of the epoch instead.
    pub fn steps_per_epoch(&self) -> u64 {
        self.pairs / self.global_batch
    }

    /// The global batch of a step. Its pairs are grouped by shard, in the order that the epoch gives
    /// the shards, so that each rank's share of it lies in few of them.
    pub fn draw_batch(&self, step: u64) -> Vec<SampleRef> {
        let epoch = step / self.steps_per_epoch();
        let first = step % self.steps_per_epoch() * self.global_batch;
        let positions = first..first + self.global_batch;
        let mut batch: Vec<_> = positions
            .map(|position| self.sample_at(epoch, position))
            .collect();
        batch.sort_by_key(|(place, _)| *place);

        batch.into_iter().map(|(_, draw)| draw).collect()
    }

    /// The pair to use where `draw` cannot be: the one that has its turn a batch later.
    pub fn replacement_for(&self, draw: &SampleRef) -> SampleRef {
        self.sample_at(draw.epoch, (draw.position + self.global_batch) % self.pairs)
            .1
    }

    fn sample_at(&self, epoch: u64, position: u64) -> (u32, SampleRef) {
        let window = self.cached_window(epoch, position);
        let (place, shard, pair) = window.pairs[(position - window.start) as usize];
        (
            place,
            SampleRef {
                shard,
                pair,
                epoch,
                position,
            },
        )
    }

    /// The window that covers a position, permuted once and then kept for a while.
    fn cached_window(&self, epoch: u64, position: u64) -> Arc<ShuffleWindow> {
        self.windows.get_or_insert_with(
            |window| window.covers_position(epoch, position),
            || self.shuffle_window(epoch, position),
        )
    }

    fn shuffle_window(&self, epoch: u64, position: u64) -> ShuffleWindow {
        let mut shards: Vec<u32> = (0..self.shards.len() as u32).collect();
        self.seeded_rng(epoch, "shards").shuffle(&mut shards);
        let (places, start) = self.window_bounds(&shards, position);
        let mut pairs: Vec<_> = places
            .flat_map(|place| {
                let shard = shards[place];
                let (_, pairs) = self.shards[shard as usize];
                (0..pairs as u32).map(move |pair| (place as u32, shard, pair))
            })
            .collect();

        self.seeded_rng(epoch, &format!("pairs from {start}"))
            .shuffle(&mut pairs);
        ShuffleWindow {
            epoch,
            start,
            pairs,
        }
    }

    /// The places in the epoch of the shards whose window covers a position, and where it starts.
    fn window_bounds(&self, shards: &[u32], position: u64) -> (std::ops::Range<usize>, u64) {
        let mut first = 0;
        let mut start = 0;
        let mut bytes = 0;
        let mut end = 0;

        for (place, shard) in shards.iter().enumerate() {
            let (shard_bytes, pairs) = self.shards[*shard as usize];
            bytes += shard_bytes;
            end += pairs;

            if bytes >= self.window_bytes {
                if position < end {
                    return (first..place + 1, start);
                }
                (first, start, bytes) = (place + 1, end, 0);
            }
        }

        (first..shards.len(), start)
    }

    fn seeded_rng(&self, epoch: u64, what: &str) -> ShuffleRng {
        let Self { seed, dataset, .. } = self;
        let digest = Sha256::digest(format!("{seed} {dataset} {epoch} {what}"));
        let (first, _) = digest.as_slice().split_at(8);
        ShuffleRng(
            first
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }
}

/// SplitMix64. Fixed for good: a resumed run must draw what the run before it drew.
struct ShuffleRng(u64);

impl ShuffleRng {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);

        z ^ (z >> 31)
    }

    /// Fisher-Yates.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let chosen = (u128::from(self.next_u64()) * (last as u128 + 1)) >> 64;
            items.swap(last, chosen as usize);
        }
    }
}

#[cfg(test)]
mod tests;
