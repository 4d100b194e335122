//! The corpus of a retrieval: every image and every text of a data set once, encoded, and which of them are
//! relevant to each other. Computes no similarities.

mod check;
mod scan;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::retrieval::{RetrievalPool, RetrievalResult};
use super::sharding::all_gather_json;
use super::skip_budget::EvalSkipBudget;
use super::{EncodeOptions, Encoder, EncoderInputSizes};
use crate::error::{Error, Result};
use crate::host_memory::ensure_features_fit;
use crate::threads::spawn_named;
use cnclip_compute::collective::Collective;
use cnclip_compute::nearest_neighbors::FeatureMatrix;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_data::shard::{Dataset, ItemId, SampleText};
use cnclip_data::tokenizer::{Tokenizer, normalize_dataset_text};
use cnclip_distributed::Communicator;
use cnclip_nn::model::PackedTexts;
use scan::{ImageChunk, ScannedSamples, read_unpaired_texts, stream_image_chunks};

/// Decoded chunks that wait for the encoder: decoding on the CPU overlaps encoding.
const CHUNKS_AHEAD: usize = 2;

/// Location of an image in a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLocation {
    /// Number of the shard.
    pub shard: usize,
    /// Number of the sample in it.
    pub sample: usize,
    /// Id of the image in the data set.
    pub image_id: ItemId,
}

/// The encoded data set.
///
/// # Guarantees
/// Images are in the order of the shards, texts in the order of their first image. Unusable images and texts
/// are in neither.
#[derive(Debug, Default)]
pub struct RetrievalCorpus {
    /// Every image.
    pub images: Vec<ImageLocation>,
    /// Every text.
    pub texts: Vec<SampleText>,
    /// For each text, the images it describes.
    pub relevant: Vec<Vec<usize>>,
    /// Images that are missing or do not decode, and empty texts.
    pub(super) unusable: EvalSkipBudget,
    width: usize,
    image_features: Vec<f32>,
    text_features: Vec<f32>,
    text_indices: HashMap<(ItemId, String), usize>,
}

impl RetrievalCorpus {
    /// Reads and encodes a data set, each rank its share of images and texts; images are decoded
    /// while others are encoded.
    ///
    /// # Errors
    /// If the store fails, more than `max_skipped_ratio` is unusable, or a rank is lost.
    ///
    /// # Guarantees
    /// All ranks get the whole corpus, and the same one for any number of ranks.
    pub fn encode_dataset(
        dataset: &Dataset,
        tokenizer: &Tokenizer,
        encoder: &mut impl Encoder,
        options: EncodeOptions,
        world: &Communicator,
    ) -> Result<Self> {
        let sizes = options.input_sizes;
        let mut corpus = Self {
            width: encoder.embedding_dim(),
            ..Self::default()
        };

        let mut own = ScannedSamples::default();
        let mut features = Vec::new();
        // Divided by the counts of the index: ranks agree on their shares without reading a shard.
        let images = dataset.index().images;
        ensure_features_fit(dataset.uri(), images, corpus.width)?;
        let share = world.rank_range(images as usize);
        let ready = start_reading(dataset.clone(), sizes, share)?;
        while let Some(chunk) = wait_for_chunk(&ready, encoder)? {
            let ImageChunk { planes, scanned } = chunk;
            // A chunk can hold nothing but skipped images, or the report of a damaged shard.
            if !scanned.images.is_empty() {
                features.extend_from_slice(&encoder.encode_images(PixelBatch::Bytes(&planes)));
            }

            own.append(scanned);
        }

        encoder.check_device_errors()?;
        // Shares are contiguous and gathered in the order of ranks: features and images line up, in
        // the same order as on a single rank.
        corpus.image_features = world.all_gather_concat(features)?;
        all_gather_json(&own, world)?
            .into_iter()
            .for_each(|scanned| corpus.merge_scanned(scanned));

        // Candidates too: without them, image-to-text retrieval would be easier. Read after the
        // gather, so that the order of texts does not depend on the number of ranks.
        corpus.merge_scanned(read_unpaired_texts(dataset)?);
        corpus.check_skip_budget(dataset, options.max_skipped_ratio)?;

        // Every rank knows all texts only now: a text can belong to images of several ranks.
        let share = world.rank_range(corpus.texts.len());
        let features = corpus.encode_texts(tokenizer, encoder, sizes, share)?;
        encoder.check_device_errors()?;
        corpus.text_features = world.all_gather_concat(features)?;

        Ok(corpus)
    }

    /// Searches it in both directions.
    pub fn search_both_directions(&self) -> RetrievalResult {
        RetrievalResult::search_pool(self.retrieval_pool())
    }

    /// Its features, and which are relevant to each other.
    pub fn retrieval_pool(&self) -> RetrievalPool<'_> {
        RetrievalPool {
            texts: FeatureMatrix::new(&self.text_features, self.width),
            images: FeatureMatrix::new(&self.image_features, self.width),
            relevant: &self.relevant,
        }
    }

    /// The files of some of its images, read again: they are not kept in memory.
    ///
    /// # Errors
    /// If the store fails.
    pub fn read_images(
        &self,
        dataset: &Dataset,
        images: &[usize],
    ) -> Result<HashMap<usize, Bytes>> {
        let mut images = images.to_vec();
        // By shard, so that each shard is fetched once.
        images.sort_unstable_by_key(|&image| (self.images[image].shard, image));
        images.dedup();
        let mut found = HashMap::new();

        let is_same_shard = |a: &usize, b: &usize| self.images[*a].shard == self.images[*b].shard;
        for group in images.chunk_by(is_same_shard) {
            let first = &self.images[group[0]];
            let shard = dataset.read_shard(first.shard)?;

            for &image in group {
                let location = &self.images[image];
                if let Some(sample) = shard.samples.get(location.sample) {
                    // Copied, because a slice of the buffer would keep the whole shard in memory.
                    found.insert(image, Bytes::copy_from_slice(&sample.image));
                }
            }
        }

        Ok(found)
    }

    fn merge_scanned(&mut self, found: ScannedSamples) {
        let first = self.images.len();
        self.images.extend(found.images);
        self.unusable.merge_skips(found.unusable);

        for (text, image) in found.texts {
            let text = self.intern_text(text);
            self.relevant[text].extend(image.map(|image| first + image));
        }
    }

    /// The index of a text, which is new or belongs to an earlier image too.
    fn intern_text(&mut self, text: SampleText) -> usize {
        // The wording is part of the key: two wordings under one id stay apart, and the check
        // before the search can report them.
        let key = (text.text_id.clone(), text.text.clone());
        *self.text_indices.entry(key).or_insert_with(|| {
            self.texts.push(text);
            self.relevant.push(Vec::new());
            self.texts.len() - 1
        })
    }

    /// Encodes a share of the texts.
    fn encode_texts(
        &self,
        tokenizer: &Tokenizer,
        encoder: &mut impl Encoder,
        sizes: EncoderInputSizes,
        share: Range<usize>,
    ) -> Result<Vec<f32>> {
        let mut features = Vec::new();
        for texts in self.texts[share].chunks(sizes.batch_size) {
            encoder.check_interrupted()?;
            let texts: Vec<_> = texts
                .iter()
                // The reference normalizes when it reads a data set, not when it tokenizes.
                .map(|text| normalize_dataset_text(&text.text))
                .collect();

            let (ids, offsets) = tokenizer.encode_batch(&texts, sizes.context_length);
            let texts = PackedTexts {
                ids: &ids,
                offsets: &offsets,
            };

            features.extend_from_slice(&encoder.encode_texts(texts));
        }

        Ok(features)
    }

    fn check_skip_budget(&self, dataset: &Dataset, max_skipped_ratio: f64) -> Result<()> {
        let usable = self.images.len() + self.texts.len();
        let total = usable as u64 + self.unusable.count;
        let what = format!("images and texts of {}", dataset.uri());
        self.unusable
            .ensure_within_limit(max_skipped_ratio, total, &what)
    }
}

/// Chunks, and `None` after the last: a channel that only ends belongs to a thread that panicked.
type ChunkReceiver = Receiver<Result<Option<ImageChunk>>>;

/// Reads a share of the images in a thread of its own. It is not waited for: one that reads from a store that does not
/// answer ends when the store does.
fn start_reading(
    dataset: Dataset,
    sizes: EncoderInputSizes,
    share: Range<usize>,
) -> Result<ChunkReceiver> {
    let (chunks, ready) = sync_channel(CHUNKS_AHEAD);
    let read = move || {
        // A failed send means that the receiver has stopped after an error of its own, which is the one that is
        // returned.
        let give = |chunk: Result<ImageChunk>| chunks.send(chunk.map(Some)).is_ok();
        let _ = stream_image_chunks(&dataset, sizes, share, give);
        let _ = chunks.send(Ok(None));
    };

    spawn_named("decode", read)
        .map_err(|error| Error::Bug(format!("no thread to read images: {error}")))?;
    Ok(ready)
}

/// The next chunk, `None` after the last.
fn wait_for_chunk(ready: &ChunkReceiver, encoder: &impl Encoder) -> Result<Option<ImageChunk>> {
    const POLL_INTERVAL: Duration = Duration::from_millis(100);

    loop {
        encoder.check_interrupted()?;
        match ready.recv_timeout(POLL_INTERVAL) {
            Ok(chunk) => return chunk,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Bug("the thread that reads images panicked".into()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
