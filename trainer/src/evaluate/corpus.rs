//! A data set as retrieval sees it: every picture and every text once, encoded, and which belong
//! together. Never compares two of them.

mod check;
mod scan;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::retrieval::{RetrievalPool, RetrievalResult};
use super::search::FeatureMatrix;
use super::sharding::{all_gather_json, rank_range};
use super::skip_budget::EvalSkipBudget;
use super::{Encoder, EncoderInputSizes};
use crate::error::{Error, Result};
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_data::shard::{Dataset, ItemId, SampleText};
use cnclip_data::tokenizer::{Tokenizer, normalize_dataset_text};
use cnclip_distributed::Communicator;
use cnclip_nn::model::PackedTexts;
use scan::{ImageChunk, ScannedSamples, read_unpaired_texts, stream_image_chunks};

/// Chunks of pictures that are ready before the encoder asks.
const CHUNKS_AHEAD: usize = 2;

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLocation {
    /// Number of the shard.
    pub shard: usize,
    /// Number of the sample in it.
    pub sample: usize,
    /// What the data set calls the picture.
    pub image_id: ItemId,
}

/// The encoded data set.
///
/// # Guarantees
/// Pictures are in the order of the shards, texts in the order of their first picture; what cannot
/// be used is in neither.
#[derive(Debug, Default)]
pub struct RetrievalCorpus {
    /// Every picture.
    pub images: Vec<ImageLocation>,
    /// Every text.
    pub texts: Vec<SampleText>,
    /// For each text, the pictures it describes.
    pub relevant: Vec<Vec<usize>>,
    /// Pictures that do not decode or are missing, and empty texts.
    pub(super) unusable: EvalSkipBudget,
    width: usize,
    image_features: Vec<f32>,
    text_features: Vec<f32>,
    text_indices: HashMap<(ItemId, String), usize>,
}

impl RetrievalCorpus {
    /// Reads and encodes a data set, each rank its share of pictures and texts; pictures are decoded
    /// while others are encoded.
    ///
    /// # Errors
    /// If the store fails, a larger share than `most_skipped` cannot be used, or a rank is lost.
    ///
    /// # Guarantees
    /// All ranks get the whole gallery, the same for any number of them.
    pub fn encode_dataset(
        dataset: &Dataset,
        tokenizer: &Tokenizer,
        encoder: &mut impl Encoder,
        (sizes, most_skipped): (EncoderInputSizes, f64),
        world: &Communicator,
    ) -> Result<Self> {
        let mut gallery = Self {
            width: encoder.embedding_dim(),
            ..Self::default()
        };

        let mut own = ScannedSamples::default();
        let mut features = Vec::new();
        let pictures: u64 = dataset.index().shards.iter().map(|part| part.images).sum();
        let part = rank_range(pictures as usize, world);
        std::thread::scope(|scope| {
            let (chunks, ready) = sync_channel(CHUNKS_AHEAD);
            scope.spawn(move || {
                // A refused chunk means that the reader has gone: there is nobody to tell.
                let _ =
                    stream_image_chunks(dataset, sizes, part, |chunk| chunks.send(chunk).is_ok());
            });

            ready.into_iter().try_for_each(|chunk| {
                let ImageChunk {
                    planes,
                    scanned: found,
                } = chunk?;
                if !found.images.is_empty() {
                    features.extend_from_slice(&encoder.encode_images(PixelBatch::Bytes(&planes)));
                }

                own.append(found);
                Ok::<_, Error>(())
            })
        })?;

        encoder.check_device_errors()?;
        gallery.image_features = world.all_gather_concat(features)?;
        all_gather_json(&own, world)?
            .into_iter()
            .for_each(|found| gallery.merge_scanned(found));

        gallery.merge_scanned(read_unpaired_texts(dataset)?);
        gallery.check_skip_budget(dataset, most_skipped)?;
        let part = rank_range(gallery.texts.len(), world);
        let features = gallery.encode_texts(tokenizer, encoder, (sizes, part));
        encoder.check_device_errors()?;
        gallery.text_features = world.all_gather_concat(features)?;

        Ok(gallery)
    }

    /// Searches it in both directions.
    pub fn search_both_directions(&self) -> RetrievalResult {
        RetrievalResult::search_pool(self.retrieval_pool())
    }

    /// Its features, and which belong together.
    pub fn retrieval_pool(&self) -> RetrievalPool<'_> {
        RetrievalPool {
            texts: FeatureMatrix::new(&self.text_features, self.width),
            images: FeatureMatrix::new(&self.image_features, self.width),
            relevant: &self.relevant,
        }
    }

    /// The encoded files of some of its pictures, read again: they are not kept.
    ///
    /// # Errors
    /// If the store fails.
    pub fn read_images(
        &self,
        dataset: &Dataset,
        images: &[usize],
    ) -> Result<HashMap<usize, Bytes>> {
        let mut images = images.to_vec();
        images.sort_unstable_by_key(|&image| (self.images[image].shard, image));
        images.dedup();
        let mut found = HashMap::new();

        for group in images.chunk_by(|&a, &b| self.images[a].shard == self.images[b].shard) {
            let shard = dataset.read_shard(self.images[group[0]].shard)?;
            for &image in group {
                // Copied, or one picture would keep its whole shard in memory.
                let sample = shard.samples.get(self.images[image].sample);
                found.extend(sample.map(|s| (image, Bytes::copy_from_slice(&s.image))));
            }
        }

        Ok(found)
    }

    fn merge_scanned(&mut self, found: ScannedSamples) {
        let first = self.images.len();
        self.images.extend(found.images);
        self.unusable.merge_skips(found.unusable);

        for (caption, image) in found.captions {
            let text = self.intern_text(caption);
            self.relevant[text].extend(image.map(|image| first + image));
        }
    }

    /// The index of a text, which is new or belongs to an earlier picture too.
    fn intern_text(&mut self, caption: SampleText) -> usize {
        let key = (caption.text_id.clone(), caption.text.clone());
        *self.text_indices.entry(key).or_insert_with(|| {
            self.texts.push(caption);
            self.relevant.push(Vec::new());
            self.texts.len() - 1
        })
    }

    /// Encodes a share of the texts.
    fn encode_texts(
        &self,
        tokenizer: &Tokenizer,
        encoder: &mut impl Encoder,
        (sizes, share): (EncoderInputSizes, Range<usize>),
    ) -> Vec<f32> {
        let mut features = Vec::new();
        for texts in self.texts[share].chunks(sizes.batch_size) {
            let texts: Vec<_> = texts
                .iter()
                .map(|caption| normalize_dataset_text(&caption.text))
                .collect();

            let (ids, offsets) = tokenizer.encode_batch(&texts, sizes.context_length);
            let texts = PackedTexts {
                ids: &ids,
                offsets: &offsets,
            };

            features.extend_from_slice(&encoder.encode_texts(texts));
        }

        features
    }

    fn check_skip_budget(&self, dataset: &Dataset, most_skipped: f64) -> Result<()> {
        let total = (self.images.len() + self.texts.len()) as u64 + self.unusable.count;
        let what = format!("pictures and texts of {}", dataset.uri());
        self.unusable
            .ensure_within_limit(most_skipped, total, &what)
    }
}

#[cfg(test)]
mod tests;
