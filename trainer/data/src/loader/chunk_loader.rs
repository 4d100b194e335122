//! Loads a few samples of a batch: finds them, prepares image and text, and replaces the ones that cannot be
//! used. Pure but for its caches.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::LoaderOptions;
use super::shard_cache::{CachedImage, CachedShard, ShardCache};
use super::skipped_samples::{SkipReason, SkippedSamples};
use crate::error::{Error, Result};
use crate::image::augment::AugmentKey;
use crate::image::decode::{DecodedImage, PixelData, decode_image};
use crate::image::preprocess::augment_into;
use crate::order::{BatchSampler, SampleRef};
use crate::recent_cache::RecentCache;
use crate::shard::{Dataset, ItemId, Sample, SampleText, Shard};
use crate::skip_budget::SkipBudget;
use crate::tokenizer::{Tokenizer, normalize_dataset_text};
use cnclip_compute::digest::Fingerprint;
use cnclip_crds::stage::{Augmentation, DuplicatePolicy};

/// Replacements tried for one sample: more in a row means that nothing can be used.
const MAX_REPLACEMENTS: u64 = 100;
/// Global batches kept drawn, for the threads that work on the same ones.
const MAX_CACHED_BATCHES: usize = 4;

/// A few samples of a batch.
#[derive(Debug, Default)]
pub(super) struct BatchChunk {
    pub(super) pixels: Vec<u8>,
    pub(super) token_ids: Vec<Box<[u32]>>,
    pub(super) sample_ids: Vec<(ItemId, ItemId)>,
    pub(super) fingerprints: Vec<Fingerprint>,
}

/// Everything that chunks are made of, shared by the threads of a loader.
#[derive(Debug)]
pub(super) struct ChunkLoader {
    pub(super) sampler: BatchSampler,
    pub(super) skipped_samples: SkippedSamples,
    shard_cache: ShardCache,
    tokenizer: Arc<Tokenizer>,
    options: LoaderOptions,
    /// Bytes of images that may still be cached.
    image_cache_left: AtomicU64,
    recent_batches: RecentCache<GlobalBatch>,
}

/// The samples of a step, over all ranks.
#[derive(Debug)]
struct GlobalBatch {
    step: u64,
    samples: Vec<SampleRef>,
}

/// A sample that cannot be used: why, and where it is.
struct SampleError {
    reason: SkipReason,
    message: String,
}

impl ChunkLoader {
    pub(super) fn new(
        dataset: Dataset,
        sampler: BatchSampler,
        tokenizer: Arc<Tokenizer>,
        options: LoaderOptions,
    ) -> Self {
        let ranks = (options.global_batch / options.rank_range.len().max(1)) as u64;
        let budget = SkipBudget::new(options.max_skipped_ratio);
        let skipped_samples = SkippedSamples::new(budget, dataset.index().pairs, ranks);
        let shard_cache = ShardCache::new(dataset, options.shard_cache_bytes);
        // Images go with their shard when it is evicted: of a larger data set each would be decoded again
        // before it is used again, and caching it would only take memory.
        let image_cache_bytes = match shard_cache.fits_dataset() {
            true => options.image_cache_bytes,
            false => 0,
        };

        Self {
            sampler,
            skipped_samples,
            shard_cache,
            tokenizer,
            options,
            image_cache_left: AtomicU64::new(image_cache_bytes),
            recent_batches: RecentCache::new(MAX_CACHED_BATCHES),
        }
    }

    /// Brings the shards of a step into memory.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn prefetch_shards(&self, step: u64) -> Result<()> {
        let batch = self.draw_global_batch(step);
        let samples = &batch.samples[self.options.rank_range.clone()];
        // A batch is sorted by shard, so every shard is one run.
        let mut runs = samples.chunk_by(|a, b| a.shard == b.shard);
        runs.try_for_each(|run| self.shard_cache.load_shard(run[0].shard).map(drop))
    }

    /// The samples at some indices of a step's global batch.
    ///
    /// # Errors
    /// If the store fails, or too many samples cannot be used.
    pub(super) fn load_chunk(&self, step: u64, indices: Range<usize>) -> Result<BatchChunk> {
        let batch = self.draw_global_batch(step);
        let mut chunk = BatchChunk::default();
        chunk.pixels.reserve_exact(indices.len() * self.image_len());
        self.skipped_samples.add_drawn(indices.len() as u64);

        for index in indices {
            let key = AugmentKey {
                seed: self.options.seed,
                step,
                sample: index as u64,
            };

            self.append_with_replacement(batch.samples[index], key, &mut chunk)?;
        }

        Ok(chunk)
    }

    /// Appends a sample, or the first of its replacements that can be used.
    ///
    /// A batch keeps its size: losses compare all samples of a batch, and ranks exchange equal parts.
    fn append_with_replacement(
        &self,
        first: SampleRef,
        key: AugmentKey,
        chunk: &mut BatchChunk,
    ) -> Result<()> {
        let mut sample = first;
        for attempt in 0..MAX_REPLACEMENTS {
            let loaded = self.shard_cache.load_shard(sample.shard)?;
            match self.append_sample(&loaded, sample.pair as usize, key, chunk) {
                Ok(()) => return Ok(()),
                Err(SampleError { reason, message }) => {
                    self.skipped_samples
                        .record_skip(&sample, reason, || message)?
                }
            }

            sample = self.sampler.replacement_for(&first, attempt);
        }

        let examples = self.skipped_samples.skip_counts().examples.join(" ");
        Err(Error::Data(format!(
            "{MAX_REPLACEMENTS} pairs in a row cannot be used. The first of all: {examples}"
        )))
    }

    /// Appends a pair of a shard; on an error the chunk is as it was.
    fn append_sample(
        &self,
        loaded: &CachedShard,
        pair: usize,
        key: AugmentKey,
        chunk: &mut BatchChunk,
    ) -> Result<(), SampleError> {
        let shard = &loaded.shard;
        let Some(&(sample_index, text_index)) = shard.pairs.get(pair) else {
            return Err(SampleError::missing_pair(shard));
        };

        let sample_index = sample_index as usize;
        let sample = &shard.samples[sample_index];
        let text = &sample.texts[text_index as usize];
        if text.text.trim().is_empty() {
            return Err(SampleError::empty_text(shard, sample, text));
        }

        // The image before everything else that is appended: it is the last that can fail.
        self.append_image(loaded, sample_index, key, &mut chunk.pixels)
            .map_err(|error| SampleError::bad_image(shard, sample, &error))?;

        // Kept as long as the shard is: ids are smaller than the text that they were made of.
        let token_ids = loaded.token_ids[pair].get_or_init(|| {
            let text = normalize_dataset_text(&text.text);
            self.tokenizer
                .encode(&text, self.options.context_length)
                .into()
        });

        if self.options.duplicates == DuplicatePolicy::Positives {
            let image =
                loaded.fingerprints[sample_index].get_or_init(|| hash_fingerprint(&sample.image));
            chunk.fingerprints.push(Fingerprint {
                image: *image,
                text: hash_fingerprint(token_ids),
            });
        }

        chunk.token_ids.push(token_ids.clone());
        chunk
            .sample_ids
            .push((sample.image_id.clone(), text.text_id.clone()));
        Ok(())
    }

    /// Appends the planes of an image, from the cache if it is there.
    fn append_image(
        &self,
        loaded: &CachedShard,
        sample: usize,
        key: AugmentKey,
        pixels: &mut Vec<u8>,
    ) -> Result<(), String> {
        let start = pixels.len();
        let LoaderOptions {
            side, augmentation, ..
        } = self.options;

        match loaded.images[sample].get() {
            Some(CachedImage::Preprocessed(planes)) => pixels.extend_from_slice(planes),
            Some(CachedImage::Decoded(image)) => {
                pixels.resize(start + self.image_len(), 0);
                augment_into(image, side, augmentation, key, &mut pixels[start..]);
            }
            None => {
                let bytes = &loaded.shard.samples[sample].image;
                let image = decode_image(bytes).map_err(|error| error.to_string())?;
                pixels.resize(start + self.image_len(), 0);
                augment_into(&image, side, augmentation, key, &mut pixels[start..]);
                self.cache_image(loaded, sample, image, &pixels[start..]);
            }
        }

        Ok(())
    }

    /// Caches an image for the next epoch if there is memory left for it: without augmentation its planes,
    /// which are the same every time, otherwise what it was decoded to.
    fn cache_image(&self, loaded: &CachedShard, sample: usize, image: DecodedImage, planes: &[u8]) {
        let is_fixed = self.options.augmentation == Augmentation::None;
        let bytes = match is_fixed {
            true => planes.len(),
            false => decoded_bytes(&image),
        };

        if !self.reserve_image_cache(bytes as u64) {
            return;
        }

        loaded.images[sample].get_or_init(|| match is_fixed {
            true => CachedImage::Preprocessed(planes.into()),
            false => CachedImage::Decoded(image),
        });
    }

    /// Takes bytes off what may still be cached; says whether there were as many.
    fn reserve_image_cache(&self, bytes: u64) -> bool {
        // Relaxed: the number guards no other memory, and a thread that sees an old one tries again.
        self.image_cache_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .is_ok()
    }

    fn image_len(&self) -> usize {
        3 * self.options.side * self.options.side
    }

    /// A global batch, drawn once for all threads.
    fn draw_global_batch(&self, step: u64) -> Arc<GlobalBatch> {
        let is_same_step = |batch: &GlobalBatch| batch.step == step;
        self.recent_batches
            .get_or_insert_with(is_same_step, || GlobalBatch {
                step,
                samples: self.sampler.draw_batch(step),
            })
    }
}

impl SampleError {
    /// A pair that the index counts and the shard does not have.
    fn missing_pair(shard: &Shard) -> Self {
        let damage = shard.damage.clone();
        Self {
            reason: SkipReason::Shard,
            message: damage.unwrap_or_else(|| format!("{} is not as indexed.", shard.uri)),
        }
    }

    fn empty_text(shard: &Shard, sample: &Sample, text: &SampleText) -> Self {
        Self {
            reason: SkipReason::Text,
            message: format!(
                "{} of {}: text {} is empty.",
                sample.key, shard.uri, text.text_id
            ),
        }
    }

    fn bad_image(shard: &Shard, sample: &Sample, error: &str) -> Self {
        Self {
            reason: SkipReason::Image,
            message: format!("{} of {}: {error}.", sample.key, shard.uri),
        }
    }
}

/// Equal values have equal hashes; two different ones have so once in 2⁶⁴.
///
/// The hasher of the standard library may change between releases, which is no harm: hashes are compared
/// within a batch only, and all ranks run one build.
fn hash_fingerprint(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn decoded_bytes(image: &DecodedImage) -> usize {
    match &image.pixels {
        PixelData::Gray16(levels) => 2 * levels.len(),
        PixelData::Gray(levels)
        | PixelData::GrayAlpha(levels)
        | PixelData::Rgb(levels)
        | PixelData::Palette(levels)
        | PixelData::Rgba(levels)
        | PixelData::Cmyk(levels) => levels.len(),
    }
}
