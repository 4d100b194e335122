//! A data set as retrieval sees it: every picture and every text once, encoded, and which belong
//! together. Never compares two of them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use cnclip_crds::stage::Augmentation;

use super::retrieval::{Pool, Retrieval};
use super::search::Features;
use super::{Encoder, Sizes};
use crate::data::augment::Key;
use crate::data::preprocess::preprocess;
use crate::data::shard::{Caption, Dataset, Id, Sample, Shard};
use crate::data::tokenize::{Tokenizer, dataset_rules};
use crate::error::{Error, Result};
use crate::model::Texts;
use crate::ops::pixels::Pixels;
use crate::ops::ranks::Ranks;
use crate::world::World;

/// Chunks of pictures that are ready before the encoder asks.
const CHUNKS_AHEAD: usize = 2;
const MOST_EXAMPLES: usize = 5;

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
    pub skipped: u64,
    examples: Vec<String>,
    width: usize,
    image_features: Vec<f32>,
    text_features: Vec<f32>,
    text_indices: HashMap<(Id, String), usize>,
}

/// Pictures on their way to the encoder, and what is known of them.
#[derive(Default)]
struct Chunk {
    planes: Vec<u8>,
    found: Found,
}

/// What was found in a part of a data set; a text may name one of the pictures.
#[derive(Default, Serialize, Deserialize)]
struct Found {
    images: Vec<Place>,
    captions: Vec<(Caption, Option<usize>)>,
    /// Pictures and texts that cannot be used, told or not.
    skipped: u64,
    faults: Vec<String>,
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
        let mut gallery = Self { width: encoder.width(), ..Self::default() };
        let (mut own, mut features) = (Found::default(), Vec::new());
        let pictures = dataset.index().shards.iter().map(|part| part.images).sum();
        let part = share(pictures, world);
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
        own.exchange(world)?.into_iter().for_each(|found| gallery.take(found));
        gallery.take(loose(dataset)?);
        gallery.judge(dataset, most_skipped)?;
        let part = share(gallery.texts.len() as u64, world);
        let features = gallery.encode_texts(tokenizer, encoder, (sizes, part));
        encoder.check()?;
        gallery.text_features = world.concat(features)?;
        Ok(gallery)
    }

    /// Whether it can be searched and told of.
    ///
    /// # Errors
    /// If it is empty, two pictures or two different texts have one id, or the model gave numbers that
    /// are not finite.
    pub fn check(&self, dataset: &Dataset) -> Result<()> {
        let problem = self.empty().or_else(|| self.twice()).or_else(|| self.unfit());
        problem.map_or(Ok(()), |why| Err(Error::Data(format!("{}: {why}", dataset.uri()))))
    }

    /// Whether something in it has a name where the reference has numbers.
    pub fn has_names(&self) -> bool {
        let images = self.images.iter().map(|image| &image.image_id);
        let mut ids = images.chain(self.texts.iter().map(|text| &text.text_id));
        ids.any(|id| matches!(id, Id::Name(_)))
    }

    fn empty(&self) -> Option<String> {
        let what = match (self.images.is_empty(), self.texts.is_empty()) {
            (true, _) => "image",
            (false, true) => "text",
            (false, false) => return None,
        };
        Some(format!(
            "it holds no {what} that can be used, so there is nothing to retrieve. Name a data set \
             with images and texts."
        ))
    }

    fn twice(&self) -> Option<String> {
        let mut seen = HashMap::new();
        for image in &self.images {
            if let Some(first) = seen.insert(&image.image_id, image) {
                return Some(format!(
                    "image {} is there twice: as samples {} of shard {} and {} of shard {}. Give \
                     each picture one sample with all its texts.",
                    image.image_id, first.sample, first.shard, image.sample, image.shard
                ));
            }
        }
        let mut seen = HashMap::new();
        let text = self.texts.iter().find(|text| {
            seen.insert(&text.text_id, *text).is_some_and(|first| first.text != text.text)
        })?;
        Some(format!("text {} has two wordings. Give each text its own text_id.", text.text_id))
    }

    fn unfit(&self) -> Option<String> {
        let unfit = |features: &[f32]| {
            let rows = features.chunks(self.width.max(1));
            rows.map(|row| row.iter().all(|number| number.is_finite())).position(|fine| !fine)
        };
        let image = unfit(&self.image_features).map(|at| ("image", &self.images[at].image_id));
        let text = || unfit(&self.text_features).map(|at| ("text", &self.texts[at].text_id));
        let (what, id) = image.or_else(text)?;
        Some(format!(
            "the model's feature of {what} {id} has numbers that are not finite: its weights are \
             damaged, or its training diverged. Score another checkpoint."
        ))
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
        self.skipped += found.skipped;
        let room = MOST_EXAMPLES - self.examples.len();
        self.examples.extend(found.faults.into_iter().take(room));
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
        (sizes, share): (Sizes, Range<u64>),
    ) -> Vec<f32> {
        let mut features = Vec::new();
        let share = share.start as usize..share.end as usize;
        for texts in self.texts[share].chunks(sizes.batch) {
            let texts: Vec<_> = texts.iter().map(|caption| dataset_rules(&caption.text)).collect();
            let (ids, offsets) = tokenizer.pack(&texts, sizes.context_length);
            let texts = Texts { ids: &ids, offsets: &offsets };
            features.extend_from_slice(&encoder.encode_texts(texts));
        }
        features
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

/// A rank's share of so many things.
fn share(things: u64, world: &World) -> Range<u64> {
    let (rank, count) = (world.rank() as u64, world.count() as u64);
    things * rank / count..things * (rank + 1) / count
}

/// Reads a share of all pictures in chunks that fit an encoder, until there is no more or `give` refuses
/// one.
fn read(
    dataset: &Dataset,
    sizes: Sizes,
    share: Range<u64>,
    give: impl Fn(Result<Chunk>) -> bool,
) -> Option<()> {
    let give = |chunk| give(chunk).then_some(());
    let mut first = 0;
    for (number, part) in dataset.index().shards.iter().enumerate() {
        let own = share.start.max(first)..share.end.min(first + part.images);
        let (begins, ends) = (own.start == first, own.end == first + part.images);
        let own = own.start.saturating_sub(first) as usize..own.end.saturating_sub(first) as usize;
        first += part.images;
        if own.is_empty() {
            continue;
        }
        let shard = match dataset.shard(number) {
            Ok(shard) => shard,
            Err(error) => return give(Err(error)),
        };
        // Whoever has its first picture tells what it lacks.
        if begins {
            give(Ok(Chunk { found: damage(&shard, part.images), ..Chunk::default() }))?;
        }
        // Whoever has its last one has all that there are.
        let last = if ends { shard.samples.len() } else { own.end.min(shard.samples.len()) };
        let samples = shard.samples.get(own.start..last).unwrap_or_default();
        for (first, samples) in (own.start..).step_by(sizes.batch).zip(samples.chunks(sizes.batch))
        {
            let place = (number, first);
            give(Ok(Chunk::of(&shard.uri, place, samples, sizes.side)))?;
        }
    }
    Some(())
}

/// The texts that no picture has.
fn loose(dataset: &Dataset) -> Result<Found> {
    let mut found = Found::default();
    let texts = dataset.loose_texts()?.into_iter();
    texts.for_each(|text| found.caption(dataset.uri(), text, None));
    Ok(found)
}

/// What a shard lacks. Its damage is one of the faults, so that it is told.
fn damage(shard: &Shard, images: u64) -> Found {
    let missing = images.saturating_sub(shard.samples.len() as u64);
    let faults: Vec<_> = shard.damage.iter().cloned().collect();
    Found { skipped: missing.max(faults.len() as u64), faults, ..Found::default() }
}

impl Chunk {
    /// The pictures of some samples that decode, and the captions of all.
    fn of(uri: &str, (shard, first): (usize, usize), samples: &[Sample], side: usize) -> Self {
        let planes = |sample: &Sample| {
            let mut planes = vec![0; 3 * side * side];
            preprocess(&sample.image, side, Augmentation::None, Key::default(), &mut planes)
                .map(|()| planes)
        };
        let pictures: Vec<_> = samples.par_iter().map(planes).collect();
        let Self { mut planes, mut found } = Self::default();
        for (number, (sample, picture)) in samples.iter().zip(pictures).enumerate() {
            let image = match picture {
                Ok(picture) => {
                    planes.extend(picture);
                    let (sample, image_id) = (first + number, sample.image_id.clone());
                    found.images.push(Place { shard, sample, image_id });
                    Some(found.images.len() - 1)
                }
                Err(error) => {
                    found.fault(format!("{} of {uri}: {error}.", sample.key));
                    None
                }
            };
            sample.captions.iter().for_each(|text| found.caption(uri, text.clone(), image));
        }
        Self { planes, found }
    }
}

impl Found {
    fn fault(&mut self, told: String) {
        self.skipped += 1;
        self.faults.push(told);
    }

    fn caption(&mut self, uri: &str, caption: Caption, image: Option<usize>) {
        match caption.text.trim() {
            "" => self.fault(format!("Text {} of {uri} is empty.", caption.text_id)),
            _ => self.captions.push((caption, image)),
        }
    }

    /// Adds what was found behind it.
    fn append(&mut self, next: Self) {
        let first = self.images.len();
        self.images.extend(next.images);
        let captions = next.captions.into_iter();
        self.captions
            .extend(captions.map(|(text, image)| (text, image.map(|image| first + image))));
        self.skipped += next.skipped;
        self.faults.extend(next.faults);
        self.faults.truncate(MOST_EXAMPLES);
    }

    /// What every rank found, in their order.
    fn exchange(self, world: &World) -> Result<Vec<Self>> {
        let fault = |error| Error::Bug(format!("what was found cannot be told as JSON: {error}"));
        let own = serde_json::to_vec(&self).map_err(fault)?;
        let all = world.exchange(&own)?;
        all.iter().map(|found| serde_json::from_slice(found).map_err(fault)).collect()
    }
}

#[cfg(test)]
mod tests;
