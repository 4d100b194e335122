//! A data set as retrieval sees it: every picture and every text once, encoded, and which belong
//! together. Never compares two of them.

mod check;
mod found;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::retrieval::{Pool, Retrieval};
use super::search::Features;
use super::shares::{exchange, share};
use super::unusable::Unusable;
use super::{Encoder, Sizes};
use crate::error::{Error, Result};
use cnclip_compute::ops::patchify::Pixels;
use cnclip_data::shard::{Caption, Dataset, Id};
use cnclip_data::tokenize::{Tokenizer, dataset_rules};
use cnclip_distributed::World;
use cnclip_nn::model::Texts;
use found::{Chunk, Found, loose, read};

/// Chunks of pictures that are ready before the encoder asks.
const CHUNKS_AHEAD: usize = 2;

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Number of the shard.
    pub shard: usize,
    /// Number of the sample in it.
    pub sample: usize,
    /// What the data set calls the picture.
    pub image_id: Id,
}

/// The encoded data set.
///
/// # Guarantees
/// Pictures are in the order of the shards, texts in the order of their first picture; what cannot
/// be used is in neither.
#[derive(Debug, Default)]
pub struct Gallery {
    /// Every picture.
    pub images: Vec<Place>,
    /// Every text.
    pub texts: Vec<Caption>,
    /// For each text, the pictures it describes.
    pub relevant: Vec<Vec<usize>>,
    /// Pictures that do not decode or are missing, and empty texts.
    pub(super) unusable: Unusable,
    width: usize,
    image_features: Vec<f32>,
    text_features: Vec<f32>,
    text_indices: HashMap<(Id, String), usize>,
}

impl Gallery {
    /// Reads and encodes a data set, each rank its share of pictures and texts; pictures are decoded
    /// while others are encoded.
    ///
    /// # Errors
    /// If the store fails, a larger share than `most_skipped` cannot be used, or a rank is lost.
    ///
    /// # Guarantees
    /// All ranks get the whole gallery, the same for any number of them.
    pub fn encode(
        dataset: &Dataset,
        tokenizer: &Tokenizer,
        encoder: &mut impl Encoder,
        (sizes, most_skipped): (Sizes, f64),
        world: &World,
    ) -> Result<Self> {
        let mut gallery = Self {
            width: encoder.width(),
            ..Self::default()
        };

        let mut own = Found::default();
        let mut features = Vec::new();
        let pictures: u64 = dataset.index().shards.iter().map(|part| part.images).sum();
        let part = share(pictures as usize, world);
        std::thread::scope(|scope| {
            let (chunks, ready) = sync_channel(CHUNKS_AHEAD);
            scope.spawn(move || {
                // A refused chunk means that the reader has gone: there is nobody to tell.
                let _ = read(dataset, sizes, part, |chunk| chunks.send(chunk).is_ok());
            });

            ready.into_iter().try_for_each(|chunk| {
                let Chunk { planes, found } = chunk?;
                if !found.images.is_empty() {
                    features.extend_from_slice(&encoder.encode_images(Pixels::Bytes(&planes)));
                }

                own.append(found);
                Ok::<_, Error>(())
            })
        })?;

        encoder.check()?;
        gallery.image_features = world.concat(features)?;
        exchange(&own, world)?
            .into_iter()
            .for_each(|found| gallery.take(found));

        gallery.take(loose(dataset)?);
        gallery.judge(dataset, most_skipped)?;
        let part = share(gallery.texts.len(), world);
        let features = gallery.encode_texts(tokenizer, encoder, (sizes, part));
        encoder.check()?;
        gallery.text_features = world.concat(features)?;

        Ok(gallery)
    }

    /// Searches it in both directions.
    pub fn retrieval(&self) -> Retrieval {
        Retrieval::of(self.pool())
    }

    /// Its features, and which belong together.
    pub fn pool(&self) -> Pool<'_> {
        Pool {
            texts: Features::new(&self.text_features, self.width),
            images: Features::new(&self.image_features, self.width),
            relevant: &self.relevant,
        }
    }

    /// The encoded files of some of its pictures, read again: they are not kept.
    ///
    /// # Errors
    /// If the store fails.
    pub fn pictures(&self, dataset: &Dataset, images: &[usize]) -> Result<HashMap<usize, Bytes>> {
        let mut images = images.to_vec();
        images.sort_unstable_by_key(|&image| (self.images[image].shard, image));
        images.dedup();
        let mut found = HashMap::new();

        for group in images.chunk_by(|&a, &b| self.images[a].shard == self.images[b].shard) {
            let shard = dataset.shard(self.images[group[0]].shard)?;
            for &image in group {
                // Copied, or one picture would keep its whole shard in memory.
                let sample = shard.samples.get(self.images[image].sample);
                found.extend(sample.map(|s| (image, Bytes::copy_from_slice(&s.image))));
            }
        }

        Ok(found)
    }

    fn take(&mut self, found: Found) {
        let first = self.images.len();
        self.images.extend(found.images);
        self.unusable.append(found.unusable);

        for (caption, image) in found.captions {
            let text = self.text(caption);
            self.relevant[text].extend(image.map(|image| first + image));
        }
    }

    /// The index of a text, which is new or belongs to an earlier picture too.
    fn text(&mut self, caption: Caption) -> usize {
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
        (sizes, share): (Sizes, Range<usize>),
    ) -> Vec<f32> {
        let mut features = Vec::new();
        for texts in self.texts[share].chunks(sizes.batch) {
            let texts: Vec<_> = texts
                .iter()
                .map(|caption| dataset_rules(&caption.text))
                .collect();

            let (ids, offsets) = tokenizer.pack(&texts, sizes.context_length);
            let texts = Texts {
                ids: &ids,
                offsets: &offsets,
            };

            features.extend_from_slice(&encoder.encode_texts(texts));
        }

        features
    }

    fn judge(&self, dataset: &Dataset, most_skipped: f64) -> Result<()> {
        let total = (self.images.len() + self.texts.len()) as u64 + self.unusable.count;
        let what = format!("pictures and texts of {}", dataset.uri());
        self.unusable.within(most_skipped, (total, &what))
    }
}

#[cfg(test)]
mod tests;
