//! Makes the batch of a step on background threads, a bounded distance ahead of the reader. Decides how images
//! and texts are cached and what replaces a sample that cannot be used; never which samples a step has (that is
//! `order`).

mod chunk_loader;
mod pipeline;
mod shard_cache;
mod skipped_samples;

use std::ops::Range;
use std::sync::Arc;

use super::order::{BatchSampler, SHUFFLE_WINDOW_BYTES};
use super::shard::{Dataset, ItemId};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use chunk_loader::{BatchChunk, ChunkLoader};
use cnclip_compute::digest::Fingerprint;
use cnclip_crds::stage::{Augmentation, DuplicatePolicy};
use pipeline::{PipelineResult, PrefetchPipeline};
pub use skipped_samples::{SkipCounts, UnusableSample};

/// Samples that one thread prepares at a time: few enough that all threads work on one batch, enough that the
/// lock of the pipeline is taken rarely.
const SAMPLES_PER_CHUNK: usize = 32;
/// Steps whose shards are fetched ahead, at most.
const MAX_PREFETCH_STEPS: u64 = 64;

/// What a loader loads, and how.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Samples of a step, over all ranks.
    pub global_batch: usize,
    /// Indices in the global batch that this rank works on.
    pub rank_range: Range<usize>,
    /// Steps to make: from the first not yet done to the last, exclusive.
    pub steps: Range<u64>,
    /// Width and height of an image, in pixels.
    pub side: usize,
    /// Augmentation of images.
    pub augmentation: Augmentation,
    /// Whether samples get fingerprints, by which the loss finds duplicates.
    pub duplicates: DuplicatePolicy,
    /// Longest text, in tokens.
    pub context_length: usize,
    /// Threads that prepare samples.
    pub threads: usize,
    /// Batches that are prepared ahead of the reader.
    pub batches_ahead: usize,
    /// Bytes of shards cached in memory; one shard at least.
    pub shard_cache_bytes: u64,
    /// Bytes of decoded images cached in memory; none unless the whole data set is in memory.
    pub image_cache_bytes: u64,
    /// Share of the samples that may be unusable, 0 to 1.
    pub max_skipped_ratio: f64,
}

impl LoaderOptions {
    /// One rank that loads whole batches on one thread, without augmentation.
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
            // The window that is read and the one that is fetched.
            shard_cache_bytes: 2 * SHUFFLE_WINDOW_BYTES,
            image_cache_bytes: 512 << 20,
            max_skipped_ratio: 0.01,
        }
    }
}

/// One rank's part of a global batch.
///
/// # Shapes
/// `pixels` is `[samples, 3, side, side]`; text `i` is `token_ids[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleBatch {
    /// The step it is for.
    pub step: u64,
    /// Levels of the images, 0 to 255.
    pub pixels: Vec<u8>,
    /// Token ids of all texts, without padding.
    pub token_ids: Vec<u32>,
    /// Where each text begins in `token_ids`, and where the last one ends.
    pub offsets: Vec<usize>,
    /// Ids of image and text of each sample.
    pub sample_ids: Vec<(ItemId, ItemId)>,
    /// Hashes of image and text of each sample; empty where duplicates are not looked for.
    pub fingerprints: Vec<Fingerprint>,
}

impl SampleBatch {
    fn append_chunk(&mut self, chunk: BatchChunk) {
        self.pixels.extend(chunk.pixels);
        self.sample_ids.extend(chunk.sample_ids);
        self.fingerprints.extend(chunk.fingerprints);

        for token_ids in chunk.token_ids {
            self.token_ids.extend_from_slice(&token_ids);
            self.offsets.push(self.token_ids.len());
        }
    }
}

/// What came of waiting for a batch.
#[derive(Debug)]
pub enum NextBatch {
    /// The batch.
    Ready(SampleBatch),
    /// There are no more.
    End,
    /// It was not waited for any longer.
    Interrupted,
}

/// The batches of a rank, in the order of the steps.
///
/// # Guarantees
/// The same options and data set give the same batches, whatever the number of threads; the parts of a step's
/// ranks together are its global batch.
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
    /// If the global batch is larger than the data set, or the range no part of it.
    pub fn start_workers(
        dataset: Dataset,
        tokenizer: Arc<Tokenizer>,
        options: LoaderOptions,
    ) -> Result<Self> {
        let LoaderOptions {
            rank_range, steps, ..
        } = options.clone();
        if rank_range.is_empty() || rank_range.end > options.global_batch {
            return Err(Error::Bug(format!(
                "a rank's share is pairs {rank_range:?} of {}",
                options.global_batch
            )));
        }

        let sampler = BatchSampler::new(dataset.index(), options.seed, options.global_batch)?;
        let fetch_ahead = prefetch_steps(&dataset, &options);
        let threads = options.threads;
        let ahead = options.batches_ahead.max(1) as u64;
        let chunk_loader = Arc::new(ChunkLoader::new(dataset, sampler, tokenizer, options));

        // Chunks of all steps are numbered through: the last threads of one batch start with the next.
        let chunks = rank_range.len().div_ceil(SAMPLES_PER_CHUNK) as u64;
        let loader = chunk_loader.clone();
        let chunks_ahead = PrefetchPipeline::spawn_workers(
            "load",
            steps.start * chunks..steps.end * chunks,
            ahead * chunks,
            threads,
            move |number| {
                let step = number / chunks;
                let first = rank_range.start + (number % chunks) as usize * SAMPLES_PER_CHUNK;
                let last = rank_range.end.min(first + SAMPLES_PER_CHUNK);
                loader.load_chunk(step, first..last)
            },
        )?;

        // Fetching is a pipeline of its own: it waits for the network, far ahead, while the other one computes.
        let loader = chunk_loader.clone();
        let shard_prefetch = PrefetchPipeline::spawn_workers(
            "fetch",
            steps.clone(),
            fetch_ahead.max(ahead),
            2,
            move |step| loader.prefetch_shards(step),
        )?;

        Ok(Self {
            chunk_loader,
            chunks_ahead,
            shard_prefetch,
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
    /// If a shard cannot be fetched or too many samples cannot be used.
    pub fn next_batch(&mut self) -> Result<Option<SampleBatch>> {
        Ok(match self.next_batch_unless(&|| false)? {
            NextBatch::Ready(batch) => Some(batch),
            NextBatch::End | NextBatch::Interrupted => None,
        })
    }

    /// The batch of the next step, unless `interrupted` says while it is waited for that it is not needed any more.
    /// After that no other batch follows.
    ///
    /// # Errors
    /// As [`DataLoader::next_batch`].
    pub fn next_batch_unless(&mut self, interrupted: &dyn Fn() -> bool) -> Result<NextBatch> {
        // Taken from the pipeline so that it goes on: its distance is counted from the last result that was read.
        // Chunks need the shards of their step, so this waits for nothing that they do not wait for.
        match self.shard_prefetch.next_result_unless(interrupted) {
            PipelineResult::Next(fetched) => fetched?,
            PipelineResult::End => {}
            PipelineResult::Interrupted => return Ok(NextBatch::Interrupted),
        }

        let mut batch = SampleBatch {
            step: self.next_step,
            offsets: vec![0],
            ..SampleBatch::default()
        };

        for _ in 0..self.chunks_per_batch {
            match self.chunks_ahead.next_result_unless(interrupted) {
                PipelineResult::Next(chunk) => batch.append_chunk(chunk?),
                PipelineResult::End => return Ok(NextBatch::End),
                PipelineResult::Interrupted => return Ok(NextBatch::Interrupted),
            }
        }

        self.next_step += 1;
        Ok(NextBatch::Ready(batch))
    }

    /// The samples that could not be used so far.
    pub fn skip_counts(&self) -> SkipCounts {
        self.chunk_loader.skipped_samples.skip_counts()
    }

    /// The samples that this rank could not use and has not reported to the others yet.
    pub fn take_unreported(&self) -> Vec<UnusableSample> {
        self.chunk_loader.skipped_samples.take_unreported()
    }

    /// Counts the samples that any rank could not use.
    ///
    /// # Errors
    /// If too large a share of what all ranks drew is bad.
    pub fn merge_reported(&self, reported: &[UnusableSample]) -> Result<()> {
        self.chunk_loader.skipped_samples.merge_reported(reported)
    }
}

/// Steps that make up half a window: while one window is read, the first half of the next arrives, and the cache
/// holds two of them.
fn prefetch_steps(dataset: &Dataset, options: &LoaderOptions) -> u64 {
    let index = dataset.index();
    let bytes: u64 = index.shards.iter().map(|part| part.bytes).sum();
    let step_bytes = bytes / index.pairs.max(1) * options.global_batch as u64;
    (SHUFFLE_WINDOW_BYTES / 2 / step_bytes.max(1)).clamp(1, MAX_PREFETCH_STEPS)
}

#[cfg(test)]
mod tests;
