//! Makes a few pairs of a batch: finds them, prepares picture and caption, and replaces the ones
//! that cannot be used. Pure but for what it keeps to be faster.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cnclip_crds::stage::{Augmentation, DuplicatePolicy};

use super::LoaderOptions;
use super::shard_cache::{CachedImage, CachedShard, ShardCache};
use super::skipped_samples::{SkipReason, SkippedSamples};
use crate::error::{Error, Result};
use crate::image::augment::AugmentKey;
use crate::image::decode::{DecodedImage, PixelData, decode_image};
use crate::image::preprocess::augment_into;
use crate::order::{BatchSampler, SHUFFLE_WINDOW_BYTES, SampleRef};
use crate::recent_cache::RecentCache;
use crate::shard::{Dataset, ItemId};
use crate::skip_budget::SkipBudget;
use crate::tokenizer::{Tokenizer, normalize_dataset_text};
use cnclip_compute::digest::Fingerprint;

/// Replacements tried for one pair: more in a row means that nothing can be used.
const MAX_REPLACEMENTS: usize = 100;
/// Global batches kept drawn, for the threads that work on the same ones.
const MAX_CACHED_BATCHES: usize = 4;

/// A few pairs of a batch.
#[derive(Debug, Default)]
pub(super) struct BatchChunk {
    pub(super) pixels: Vec<u8>,
    pub(super) token_ids: Vec<Box<[u32]>>,
    pub(super) sample_ids: Vec<(ItemId, ItemId)>,
    pub(super) fingerprints: Vec<Fingerprint>,
}

/// Everything that rows are made of.
#[derive(Debug)]
pub(super) struct ChunkLoader {
    pub(super) sampler: BatchSampler,
    pub(super) skipped_samples: SkippedSamples,
    shard_cache: ShardCache,
    tokenizer: Arc<Tokenizer>,
    options: LoaderOptions,
    /// Bytes of pictures that may still be kept.
    image_cache_left: AtomicU64,
    recent_batches: RecentCache<GlobalBatch>,
}

/// The samples of a step, over all ranks.
#[derive(Debug)]
struct GlobalBatch {
    step: u64,
    samples: Vec<SampleRef>,
}

/// A pair that cannot be used: why, and where it is.
struct SampleError {
    reason: SkipReason,
    message: String,
}

impl ChunkLoader {
    pub(super) fn new(
        dataset: Dataset,
        order: BatchSampler,
        tokenizer: Arc<Tokenizer>,
        options: LoaderOptions,
    ) -> Self {
        let ranks = (options.global_batch / options.rank_range.len().max(1)) as u64;
        let budget = SkipBudget::new(options.max_skipped_ratio);
        let skipped_samples = SkippedSamples::new(budget, dataset.index().pairs, ranks);
        // The window that is read and the one that is fetched.
        let shelf = ShardCache::new(dataset, 2 * SHUFFLE_WINDOW_BYTES);
        let keep = if shelf.fits_dataset() {
            options.image_cache_bytes
        } else {
            0
        };

        let picture_bytes = AtomicU64::new(keep);
        Self {
            sampler: order,
            skipped_samples,
            shard_cache: shelf,
            tokenizer,
            options,
            image_cache_left: picture_bytes,
            recent_batches: RecentCache::new(MAX_CACHED_BATCHES),
        }
    }

    /// Brings the shards of a step into memory.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn prefetch_shards(&self, step: u64) -> Result<()> {
        let batch = self.draw_global_batch(step);
        let share = &batch.samples[self.options.rank_range.clone()];
        let mut runs = share.chunk_by(|a, b| a.shard == b.shard);
        runs.try_for_each(|run| self.shard_cache.load_shard(run[0].shard).map(drop))
    }

    /// The pairs at `places` of a step's global batch.
    ///
    /// # Errors
    /// If the store fails, or too many pairs cannot be used.
    pub(super) fn load_chunk(&self, step: u64, places: Range<usize>) -> Result<BatchChunk> {
        let batch = self.draw_global_batch(step);
        let mut rows = BatchChunk::default();
        rows.pixels.reserve_exact(places.len() * self.image_len());
        self.skipped_samples.add_drawn(places.len() as u64);

        for place in places {
            let key = AugmentKey {
                seed: self.options.seed,
                step,
                sample: place as u64,
            };

            self.append_with_replacement(batch.samples[place], key, &mut rows)?;
        }

        Ok(rows)
    }

    /// Appends a pair, or the first of its replacements that can be used.
    fn append_with_replacement(
        &self,
        mut draw: SampleRef,
        key: AugmentKey,
        rows: &mut BatchChunk,
    ) -> Result<()> {
        for _ in 0..MAX_REPLACEMENTS {
            let loaded = self.shard_cache.load_shard(draw.shard)?;
            match self.append_sample(&loaded, &draw, key, rows) {
                Ok(()) => return Ok(()),
                Err(SampleError {
                    reason,
                    message: told,
                }) => self.skipped_samples.record_skip(&draw, reason, || told)?,
            }

            draw = self.sampler.replacement_for(&draw);
        }

        let examples = self.skipped_samples.skip_counts().examples.join(" ");
        Err(Error::Data(format!(
            "{MAX_REPLACEMENTS} pairs in a row cannot be used. The first of all: {examples}"
        )))
    }

    fn append_sample(
        &self,
        loaded: &CachedShard,
        draw: &SampleRef,
        key: AugmentKey,
        rows: &mut BatchChunk,
    ) -> Result<(), SampleError> {
        let shard = &loaded.shard;
        let Some(&(sample, caption)) = shard.pairs.get(draw.pair as usize) else {
            let damage = shard.damage.clone();
            let told = damage.unwrap_or_else(|| format!("{} is not as indexed.", shard.uri));
            return Err(SampleError {
                reason: SkipReason::Shard,
                message: told,
            });
        };

        let place = sample as usize;
        let sample = &shard.samples[place];
        let bad = |reason, what: String| {
            let told = format!("{} of {}: {what}.", sample.key, shard.uri);
            SampleError {
                reason,
                message: told,
            }
        };

        let caption = &sample.texts[caption as usize];
        if caption.text.trim().is_empty() {
            return Err(bad(
                SkipReason::Text,
                format!("text {} is empty", caption.text_id),
            ));
        }

        self.append_image(loaded, place, key, &mut rows.pixels)
            .map_err(|error| bad(SkipReason::Image, error))?;
        let ids = loaded.token_ids[draw.pair as usize].get_or_init(|| {
            let text = normalize_dataset_text(&caption.text);
            self.tokenizer
                .encode(&text, self.options.context_length)
                .into()
        });

        if self.options.duplicates == DuplicatePolicy::Positives {
            let image = *loaded.fingerprints[place].get_or_init(|| hash_fingerprint(&sample.image));
            rows.fingerprints.push(Fingerprint {
                image,
                text: hash_fingerprint(ids),
            });
        }

        rows.token_ids.push(ids.clone());
        rows.sample_ids
            .push((sample.image_id.clone(), caption.text_id.clone()));
        Ok(())
    }

    /// Appends the planes of a picture, made of what is kept of it if anything is.
    fn append_image(
        &self,
        loaded: &CachedShard,
        place: usize,
        key: AugmentKey,
        pixels: &mut Vec<u8>,
    ) -> Result<(), String> {
        let start = pixels.len();
        let LoaderOptions {
            side, augmentation, ..
        } = self.options;

        match loaded.images[place].get() {
            Some(CachedImage::Preprocessed(planes)) => pixels.extend_from_slice(planes),
            Some(CachedImage::Decoded(picture)) => {
                pixels.resize(start + self.image_len(), 0);
                augment_into(picture, side, augmentation, key, &mut pixels[start..]);
            }
            None => {
                let picture =
                    decode_image(&loaded.shard.samples[place].image).map_err(|e| e.to_string())?;
                pixels.resize(start + self.image_len(), 0);
                augment_into(&picture, side, augmentation, key, &mut pixels[start..]);
                self.cache_image(loaded, place, picture, &pixels[start..]);
            }
        }

        Ok(())
    }

    /// Keeps a picture for the next epoch if there is room.
    fn cache_image(
        &self,
        loaded: &CachedShard,
        place: usize,
        picture: DecodedImage,
        planes: &[u8],
    ) {
        let fixed = self.options.augmentation == Augmentation::None;
        let bytes = if fixed {
            planes.len()
        } else {
            decoded_bytes(&picture)
        } as u64;
        let room = |left: u64| left.checked_sub(bytes);

        if self
            .image_cache_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_err()
        {
            return;
        }

        loaded.images[place].get_or_init(|| match fixed {
            true => CachedImage::Preprocessed(planes.into()),
            false => CachedImage::Decoded(picture),
        });
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

/// Equal things have equal ones; two different things have so once in 2⁶⁴.
fn hash_fingerprint(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn decoded_bytes(picture: &DecodedImage) -> usize {
    match &picture.pixels {
        PixelData::Gray16(levels) => 2 * levels.len(),
        PixelData::Gray(levels)
        | PixelData::GrayAlpha(levels)
        | PixelData::Rgb(levels)
        | PixelData::Palette(levels)
        | PixelData::Rgba(levels)
        | PixelData::Cmyk(levels) => levels.len(),
    }
}
