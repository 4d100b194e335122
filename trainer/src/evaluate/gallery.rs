//! A data set as retrieval sees it: every picture and every text once, encoded, and which belong
//! together. Never compares two of them.

use std::collections::HashMap;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use rayon::prelude::*;

use cnclip_crds::stage::Augmentation;

use super::retrieval::{Pool, Retrieval};
use super::search::Features;
use super::{Encoder, Sizes};
use crate::data::augment::Key;
use crate::data::preprocess::preprocess;
use crate::data::shard::{Caption, Dataset, Sample, Shard};
use crate::data::tokenize::{Tokenizer, dataset_rules};
use crate::error::{Error, Result};
use crate::model::Texts;
use crate::ops::pixels::Pixels;

/// Chunks of pictures that are ready before the encoder asks.
const CHUNKS_AHEAD: usize = 2;
const MOST_EXAMPLES: usize = 5;

/// Where a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the shard.
    pub shard: usize,
    /// Number of the sample in it.
    pub sample: usize,
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
    pub skipped: u64,
    examples: Vec<String>,
    width: usize,
    image_features: Vec<f32>,
    text_features: Vec<f32>,
    text_indices: HashMap<(u64, String), usize>,
}

/// Pictures on their way to the encoder, and texts; a text may name one of the pictures.
#[derive(Default)]
struct Chunk {
    images: Vec<Place>,
    planes: Vec<u8>,
    captions: Vec<(Caption, Option<usize>)>,
    missing: u64,
    faults: Vec<String>,
}

impl Gallery {
    /// Reads and encodes a data set; pictures are decoded while others are encoded.
    ///
    /// # Errors
    /// If the store fails, or a larger share than `most_skipped` cannot be used.
    pub fn encode(
        dataset: &Dataset,
        tokenizer: &Tokenizer,
        encoder: &mut impl Encoder,
        (sizes, most_skipped): (Sizes, f64),
    ) -> Result<Self> {
        let mut gallery = Self { width: encoder.width(), ..Self::default() };
        std::thread::scope(|scope| {
            let (chunks, ready) = sync_channel(CHUNKS_AHEAD);
            scope.spawn(move || {
                // A refused chunk means that the reader has gone: there is nobody to tell.
                let _ = read(dataset, sizes, |chunk| chunks.send(chunk).is_ok());
            });
            ready.into_iter().try_for_each(|chunk| {
                gallery.take(chunk?, encoder);
                Ok::<_, Error>(())
            })
        })?;
        gallery.judge(dataset, most_skipped)?;
        gallery.encode_texts(tokenizer, encoder, sizes);
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

    fn take(&mut self, chunk: Chunk, encoder: &mut impl Encoder) {
        let first = self.images.len();
        self.images.extend(&chunk.images);
        if !chunk.images.is_empty() {
            self.image_features.extend(encoder.encode_images(Pixels::Bytes(&chunk.planes)));
        }
        self.skipped += chunk.missing + chunk.faults.len() as u64;
        let room = MOST_EXAMPLES - self.examples.len();
        self.examples.extend(chunk.faults.into_iter().take(room));
        for (caption, image) in chunk.captions {
            let text = self.text(caption);
            self.relevant[text].extend(image.map(|image| first + image));
        }
    }

    /// The index of a text, which is new or belongs to an earlier picture too.
    fn text(&mut self, caption: Caption) -> usize {
        let key = (caption.text_id, caption.text.clone());
        *self.text_indices.entry(key).or_insert_with(|| {
            self.texts.push(caption);
            self.relevant.push(Vec::new());
            self.texts.len() - 1
        })
    }

    fn encode_texts(&mut self, tokenizer: &Tokenizer, encoder: &mut impl Encoder, sizes: Sizes) {
        for texts in self.texts.chunks(sizes.batch) {
            let texts: Vec<_> = texts.iter().map(|caption| dataset_rules(&caption.text)).collect();
            let (ids, offsets) = tokenizer.pack(&texts, sizes.context_length);
            let features = encoder.encode_texts(Texts { ids: &ids, offsets: &offsets });
            self.text_features.extend(features);
        }
    }

    fn judge(&self, dataset: &Dataset, most_skipped: f64) -> Result<()> {
        let total = (self.images.len() + self.texts.len()) as u64 + self.skipped;
        if self.skipped as f64 <= most_skipped * total as f64 {
            return Ok(());
        }
        Err(Error::Data(format!(
            "{} of {total} pictures and texts of {} cannot be used; at most {} % may be. The first: \
             {} Correct the data set, or raise maxSkippedPercent.",
            self.skipped,
            dataset.uri(),
            most_skipped * 100.0,
            self.examples.join(" ")
        )))
    }
}

/// Reads everything in chunks that fit an encoder, until there is no more or `give` refuses one.
fn read(dataset: &Dataset, sizes: Sizes, give: impl Fn(Result<Chunk>) -> bool) -> Option<()> {
    let give = |chunk| give(chunk).then_some(());
    for (number, part) in dataset.index().shards.iter().enumerate() {
        let shard = match dataset.shard(number) {
            Ok(shard) => shard,
            Err(error) => return give(Err(error)),
        };
        give(Ok(damage(&shard, part.images)))?;
        for (first, samples) in (0..).step_by(sizes.batch).zip(shard.samples.chunks(sizes.batch)) {
            let place = Place { shard: number, sample: first };
            give(Ok(Chunk::of(&shard.uri, place, samples, sizes.side)))?;
        }
    }
    give(dataset.loose_texts().map(|texts| {
        let mut chunk = Chunk::default();
        texts.into_iter().for_each(|text| chunk.caption(dataset.uri(), text, None));
        chunk
    }))
}

/// What a shard lacks. Its damage is one of the faults, so that it is told.
fn damage(shard: &Shard, images: u64) -> Chunk {
    let missing = images.saturating_sub(shard.samples.len() as u64);
    let faults: Vec<_> = shard.damage.iter().cloned().collect();
    Chunk { missing: missing.saturating_sub(faults.len() as u64), faults, ..Chunk::default() }
}

impl Chunk {
    /// The pictures of some samples that decode, and the captions of all.
    fn of(uri: &str, first: Place, samples: &[Sample], side: usize) -> Self {
        let planes = |sample: &Sample| {
            let mut planes = vec![0; 3 * side * side];
            preprocess(&sample.image, side, Augmentation::None, Key::default(), &mut planes)
                .map(|()| planes)
        };
        let pictures: Vec<_> = samples.par_iter().map(planes).collect();
        let mut chunk = Self::default();
        for (number, (sample, picture)) in samples.iter().zip(pictures).enumerate() {
            let image = match picture {
                Ok(planes) => {
                    chunk.planes.extend(planes);
                    chunk.images.push(Place { sample: first.sample + number, ..first });
                    Some(chunk.images.len() - 1)
                }
                Err(error) => {
                    chunk.faults.push(format!("{} of {uri}: {error}.", sample.key));
                    None
                }
            };
            sample.captions.iter().for_each(|text| chunk.caption(uri, text.clone(), image));
        }
        chunk
    }

    fn caption(&mut self, uri: &str, caption: Caption, image: Option<usize>) {
        match caption.text.trim() {
            "" => self.faults.push(format!("Text {} of {uri} is empty.", caption.text_id)),
            _ => self.captions.push((caption, image)),
        }
    }
}
