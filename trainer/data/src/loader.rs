//! Turns a step into a batch on background threads, a bounded distance ahead of the reader.
//! Decides how pictures and captions are kept and what replaces a pair that cannot be used; never
//! which pairs a step has (that is `order`).

mod chunk_loader;
mod pipeline;
mod shard_cache;
mod skipped_samples;

use std::ops::Range;
use std::sync::Arc;

use cnclip_crds::stage::{Augmentation, DuplicatePolicy};

use super::order::{BatchSampler, SHUFFLE_WINDOW_BYTES};
use super::shard::{Dataset, ItemId};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use chunk_loader::{BatchChunk, ChunkLoader};
use cnclip_compute::digest::Fingerprint;
use pipeline::PrefetchPipeline;
pub use skipped_samples::{SkipCounts, UnusableSample};

/// Pairs that one thread prepares at a time.
const SAMPLES_PER_CHUNK: usize = 32;
/// Steps whose shards are fetched ahead, at most.
const MAX_PREFETCH_STEPS: u64 = 64;

/// What a loader makes.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Pairs of a step, over all ranks.
    pub global_batch: usize,
    /// The part of it that this rank works on.
    pub rank_range: Range<usize>,
    /// Steps to make: from the first not yet done to the last, exclusive.
    pub steps: Range<u64>,
    /// Width and height of a picture, in pixels.
    pub side: usize,
    /// What happens to pictures.
    pub augmentation: Augmentation,
    /// Whether pairs are told by what they are known by, or not at all.
    pub duplicates: DuplicatePolicy,
    /// Longest caption, in tokens.
    pub context_length: usize,
    /// Threads that prepare pairs.
    pub threads: usize,
    /// Batches ready before the reader asks.
    pub batches_ahead: usize,
    /// Decoded pictures kept in memory, in bytes; only where the whole data set is.
    pub image_cache_bytes: u64,
    /// Share of the pairs that may be unusable, 0 to 1.
    pub max_skipped_ratio: f64,
}

impl LoaderOptions {
    /// One rank that makes all of every batch on one thread, without augmentation.
    pub fn new(seed: u64, global_batch: usize, steps: Range<u64>, side: usize) -> Self {
        Self {
            seed,
            global_batch,
            rank_range: 0..global_batch,
            steps,
            side,
            augmentation: Augmentation::None,
            duplicates: DuplicatePolicy::Negatives,
            context_length: 52,
            threads: 1,
            batches_ahead: 2,
            image_cache_bytes: 512 << 20,
            max_skipped_ratio: 0.01,
        }
    }
}

/// One rank's share of a step.
///
/// # Shapes
/// `pixels` is `[pairs, 3, side, side]`; caption `i` is `ids[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleBatch {
    /// The step it is for.
    pub step: u64,
    /// Levels of the pictures.
    pub pixels: Vec<u8>,
    /// Token ids of all captions, without padding.
    pub token_ids: Vec<u32>,
    /// Where each caption begins in `ids`, and where the last one ends.
    pub offsets: Vec<usize>,
    /// `(image, text)` numbers of each pair.
    pub sample_ids: Vec<(ItemId, ItemId)>,
    /// What each pair is known by; nothing where duplicates are not looked for.
    pub fingerprints: Vec<Fingerprint>,
}

impl SampleBatch {
    fn append_chunk(&mut self, rows: BatchChunk) {
        self.pixels.extend(rows.pixels);
        self.sample_ids.extend(rows.sample_ids);
        self.fingerprints.extend(rows.fingerprints);

        for token_ids in rows.token_ids {
            self.token_ids.extend_from_slice(&token_ids);
            self.offsets.push(self.token_ids.len());
        }
    }
}

/// The batches of a rank, in the order of the steps.
///
/// # Guarantees
/// The same options and data set give the same batches, whatever the number of threads; the shares
/// of a step's ranks together are its global batch.
#[derive(Debug)]
pub struct DataLoader {
    chunk_loader: Arc<ChunkLoader>,
    chunks_ahead: PrefetchPipeline<BatchChunk>,
    shard_prefetch: PrefetchPipeline<()>,
    chunks_per_batch: u64,
    next_step: u64,
}

impl DataLoader {
    /// Starts to prepare batches.
    ///
    /// # Errors
    /// If the global batch is larger than the data set, or the share no part of it.
    pub fn start_workers(
        dataset: Dataset,
        tokenizer: Arc<Tokenizer>,
        options: LoaderOptions,
    ) -> Result<Self> {
        let LoaderOptions {
            rank_range: share,
            steps,
            ..
        } = options.clone();
        if share.is_empty() || share.end > options.global_batch {
            return Err(Error::Bug(format!(
                "a rank's share is pairs {share:?} of {}",
                options.global_batch
            )));
        }

        let order = BatchSampler::new(dataset.index(), options.seed, options.global_batch)?;
        let fetch_ahead = prefetch_steps(&dataset, &options);
        let threads = options.threads;
        let ahead = options.batches_ahead.max(1) as u64;
        let source = Arc::new(ChunkLoader::new(dataset, order, tokenizer, options));

        let chunks = share.len().div_ceil(SAMPLES_PER_CHUNK) as u64;
        let work = source.clone();
        let rows = PrefetchPipeline::spawn_workers(
            "load",
            steps.start * chunks..steps.end * chunks,
            ahead * chunks,
            threads,
            move |number| {
                let first = share.start + (number % chunks) as usize * SAMPLES_PER_CHUNK;
                work.load_chunk(
                    number / chunks,
                    first..share.end.min(first + SAMPLES_PER_CHUNK),
                )
            },
        )?;

        let work = source.clone();
        let fetched = PrefetchPipeline::spawn_workers(
            "fetch",
            steps.clone(),
            fetch_ahead.max(ahead),
            2,
            move |step| work.prefetch_shards(step),
        )?;

        Ok(Self {
            chunk_loader: source,
            chunks_ahead: rows,
            shard_prefetch: fetched,
            chunks_per_batch: chunks,
            next_step: steps.start,
        })
    }

    /// Steps of one pass over the data set.
    pub fn steps_per_epoch(&self) -> u64 {
        self.chunk_loader.sampler.steps_per_epoch()
    }

    /// The batch of the next step; `None` after the last.
    ///
    /// # Errors
    /// If a shard cannot be fetched or too many pairs cannot be used.
    pub fn next_batch(&mut self) -> Result<Option<SampleBatch>> {
        // Rows need the shards of their step, so this waits for nothing that they do not wait for.
        if let Some(fetched) = self.shard_prefetch.next_result() {
            fetched?;
        }

        let mut batch = SampleBatch {
            step: self.next_step,
            offsets: vec![0],
            ..SampleBatch::default()
        };

        for _ in 0..self.chunks_per_batch {
            match self.chunks_ahead.next_result() {
                Some(rows) => batch.append_chunk(rows?),
                None => return Ok(None),
            }
        }

        self.next_step += 1;
        Ok(Some(batch))
    }

    /// The pairs that could not be used so far.
    pub fn skip_counts(&self) -> SkipCounts {
        self.chunk_loader.skipped_samples.skip_counts()
    }

    /// The pairs that this rank could not use and has not told of before.
    pub fn take_unreported(&self) -> Vec<UnusableSample> {
        self.chunk_loader.skipped_samples.take_unreported()
    }

    /// Counts the pairs that any rank could not use.
    ///
    /// # Errors
    /// If too large a share of what all ranks drew is bad.
    pub fn merge_reported(&self, reported: &[UnusableSample]) -> Result<()> {
        self.chunk_loader.skipped_samples.merge_reported(reported)
    }
}

/// Steps that make up half a window.
fn prefetch_steps(dataset: &Dataset, options: &LoaderOptions) -> u64 {
    let index = dataset.index();
    let bytes: u64 = index.shards.iter().map(|part| part.bytes).sum();
    let step_bytes = bytes / index.pairs.max(1) * options.global_batch as u64;
    (SHUFFLE_WINDOW_BYTES / 2 / step_bytes.max(1)).clamp(1, MAX_PREFETCH_STEPS)
}

#[cfg(test)]
mod tests;
