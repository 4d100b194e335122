//! Unit features of pictures and texts, in the reference's files or others'. Compares nothing.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bytes::Bytes;
use cnclip_crds::stage::Augmentation;
use rayon::prelude::*;
use serde::Deserialize;

use super::features::{self, Of, Writer};
use super::model::Model;
use super::output;
use crate::error::{Error, Result};
use cnclip_compute::ops::patchify::Pixels;
use cnclip_compute::params::Params;
use cnclip_data::augment::Key;
use cnclip_data::jsonl::Lines;
use cnclip_data::prepare::Images;
use cnclip_data::preprocess::preprocess;
use cnclip_data::shard::{Caption, Dataset, Id, Sample};
use cnclip_data::tokenize::{Tokenizer, dataset_rules};
use cnclip_nn::model::Texts;
use cnclip_nn::model::clip::{Capacity, Clip};

/// A text to be encoded.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Text {
    /// What it is called.
    pub text_id: Id,
    /// What it says.
    pub text: String,
}

/// A picture to be encoded, and where it was found.
struct Picture {
    image_id: Id,
    place: String,
    bytes: Bytes,
}

/// A model that writes features, a batch at a time.
#[derive(Debug)]
pub struct Embedder {
    clip: Clip,
    params: Params,
    tokenizer: Tokenizer,
    side: usize,
    capacity: Capacity,
}

impl Embedder {
    /// Makes a model ready for batches of this size.
    ///
    /// # Errors
    /// If its weights do not fit, or texts of that length have no positions.
    pub fn new(model: &Model, tokenizer: Tokenizer, capacity: Capacity) -> Result<Self> {
        let context = capacity.context;
        let positions = model.config.text.positions as usize;
        if context > positions {
            return Err(Error::Usage(format!(
                "texts of {context} tokens are too long: the model has {positions} positions"
            )));
        }

        let (clip, params) = model.build(capacity)?;
        let side = model.config.image.resolution as usize;
        Ok(Self {
            clip,
            params,
            tokenizer,
            side,
            capacity,
        })
    }

    /// Writes the features of an image file of the reference, in the order of the numbers. Calls
    /// `progress` with how many of how many are done.
    ///
    /// # Errors
    /// A line that is no picture, naming it; then nothing is written.
    pub fn image_file(
        &mut self,
        images: &Path,
        to: &Path,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<()> {
        let mut images = Images::open(images)?;
        let size = (images.len(), self.clip.features());
        file(to, (Of::Images, size), |writer| {
            for first in (0..images.len()).step_by(self.capacity.batch) {
                let last = images.len().min(first + self.capacity.batch);
                let pictures = (first..last).map(|place| Picture::of_file(&mut images, place));
                self.pictures(&pictures.collect::<Result<Vec<_>>>()?, writer)?;
                progress(last, images.len());
            }

            Ok(())
        })
    }

    /// Writes the features of a prepared data set's images, in the order of its shards.
    ///
    /// # Errors
    /// A shard that is damaged or a picture that does not decode; then nothing is written.
    pub fn dataset_images(
        &mut self,
        dataset: &Dataset,
        to: &Path,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<()> {
        let mut done = 0;
        let total = dataset.index().images as usize;
        file(to, (Of::Images, (total, self.clip.features())), |writer| {
            shards(dataset, |samples| {
                for samples in samples.chunks(self.capacity.batch) {
                    let pictures: Vec<_> = samples.iter().map(Picture::of_sample).collect();
                    self.pictures(&pictures, writer)?;
                    done += samples.len();
                    progress(done, total);
                }

                Ok(())
            })
        })
    }

    /// Writes the features of texts, in their order, after the reference's rules for data sets.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn texts(
        &mut self,
        texts: &[Text],
        to: &Path,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<()> {
        let mut done = 0;
        let total = texts.len();
        let width = self.clip.features();
        file(to, (Of::Texts, (total, width)), |writer| {
            for texts in texts.chunks(self.capacity.batch) {
                let ruled: Vec<_> = texts.iter().map(|text| dataset_rules(&text.text)).collect();
                let (ids, offsets) = self.tokenizer.pack(&ruled, self.capacity.context);
                let packed = Texts {
                    ids: &ids,
                    offsets: &offsets,
                };

                let features = self.clip.encode_texts(&self.params, packed).read();
                writer.add(texts.iter().map(|text| &text.text_id), &features)?;
                done += texts.len();
                progress(done, total);
            }

            Ok(())
        })
    }

    fn pictures<W: Write + Send>(
        &mut self,
        pictures: &[Picture],
        writer: &mut Writer<W>,
    ) -> Result<()> {
        let size = 3 * self.side * self.side;
        let mut planes = vec![0; pictures.len() * size];
        let places = pictures.par_iter().zip(planes.par_chunks_mut(size));
        places.try_for_each(|(picture, planes)| {
            preprocess(
                &picture.bytes,
                self.side,
                Augmentation::None,
                Key::default(),
                planes,
            )
            .map_err(|error| Error::Data(format!("{}: {error}", picture.place)))
        })?;

        let features = self
            .clip
            .encode_images(&mut self.params, Pixels::Bytes(&planes))
            .read();

        writer.add(pictures.iter().map(|picture| &picture.image_id), &features)
    }
}

impl Picture {
    fn of_file(images: &mut Images, place: usize) -> Result<Self> {
        let bytes = images.bytes(place)?.into();
        Ok(Self {
            image_id: images.id(place).clone(),
            place: images.told(place),
            bytes,
        })
    }

    fn of_sample(sample: &Sample) -> Self {
        let Sample {
            image_id,
            key,
            image,
            ..
        } = sample.clone();

        Self {
            image_id,
            place: key,
            bytes: image,
        }
    }
}

/// Writes features in the format that the file's name asks for, and the ids of an array beside it.
fn file(
    to: &Path,
    (of, size): (Of, (usize, usize)),
    write: impl FnOnce(&mut Writer<&mut BufWriter<&File>>) -> Result<()>,
) -> Result<()> {
    let mut ids = None;
    output::file(to, |file| {
        let mut writer = Writer::new(features::format_of(to), of, size, file)?;
        write(&mut writer)?;
        ids = writer.finish()?;
        Ok(())
    })?;

    let Some(ids) = ids else { return Ok(()) };
    let beside = to.with_extension("ids.jsonl");
    output::file(&beside, |file| {
        file.write_all(&ids).map_err(Error::file("write", &beside))
    })
}

/// The texts of a text file of the reference, in its order.
///
/// # Errors
/// If it cannot be read.
pub fn text_file(path: &Path) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    Lines::open(path, "{\"text_id\": 1, \"text\": \"…\"}")?.each(
        |_, text: Text| -> Result<()> {
            texts.push(text);
            Ok(())
        },
    )?;

    Ok(texts)
}

/// The texts of a prepared data set, each once: in the order of its shards, then those of no image.
///
/// # Errors
/// A shard that is damaged.
pub fn dataset_texts(dataset: &Dataset) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    let mut seen = HashSet::new();
    let mut keep = |Caption { text_id, text }: Caption| {
        if seen.insert(text_id.clone()) {
            texts.push(Text { text_id, text });
        }
    };

    shards(dataset, |samples| {
        samples
            .into_iter()
            .flat_map(|sample| sample.captions)
            .for_each(&mut keep);

        Ok(())
    })?;

    dataset.loose_texts()?.into_iter().for_each(keep);
    Ok(texts)
}

/// Gives the samples of every shard to `take`, one shard after the other.
fn shards(dataset: &Dataset, mut take: impl FnMut(Vec<Sample>) -> Result<()>) -> Result<()> {
    for number in 0..dataset.index().shards.len() {
        let shard = dataset.shard(number)?;
        match shard.damage {
            Some(damage) => return Err(Error::Data(damage)),
            None => take(shard.samples)?,
        }
    }

    Ok(())
}
