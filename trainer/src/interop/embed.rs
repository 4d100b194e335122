//! Computes L2-normalized features of images and texts, and writes them to feature files.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bytes::Bytes;
use cnclip_crds::stage::Augmentation;
use rayon::prelude::*;
use serde::{Deserialize, Deserializer};

use super::atomic_file;
use super::features::{self, FeatureKind, FeatureWriter};
use super::resolved_model::ResolvedModel;
use crate::error::{Error, Result};
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::Params;
use cnclip_data::image::augment::AugmentKey;
use cnclip_data::image::preprocess::preprocess_image;
use cnclip_data::jsonl::JsonLines;
use cnclip_data::readers::{ImageReader, TsvImages};
use cnclip_data::shard::{Dataset, ItemId, LooseText, Sample, SampleText};
use cnclip_data::tokenizer::{Tokenizer, normalize_dataset_text};
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::{BatchCapacity, Clip};

/// A text to be encoded.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TextToEmbed {
    /// Its id.
    pub text_id: ItemId,
    /// The text; a number is its digits, as in the reference.
    #[serde(deserialize_with = "deserialize_loose_text")]
    pub text: String,
}

fn deserialize_loose_text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    LooseText::deserialize(from).map(String::from)
}

/// An image to be encoded, and its location for error messages.
struct ImageToEmbed {
    image_id: ItemId,
    location: String,
    bytes: Bytes,
}

/// A model that computes features batch by batch.
#[derive(Debug)]
pub struct Embedder {
    clip: Clip,
    params: Params,
    tokenizer: Tokenizer,
    resolution: usize,
    capacity: BatchCapacity,
}

impl Embedder {
    /// Builds a model for batches of this size.
    ///
    /// # Errors
    /// If the weights do not fit the model, or the context length exceeds its positions.
    pub fn new(
        model: &ResolvedModel,
        tokenizer: Tokenizer,
        capacity: BatchCapacity,
    ) -> Result<Self> {
        let context = capacity.context;
        let positions = model.config.text.positions as usize;
        if context > positions {
            return Err(Error::Usage(format!(
                "texts of {context} tokens are too long: the model has {positions} positions"
            )));
        }

        let (clip, params) = model.build_clip(capacity)?;
        let side = model.config.image.resolution as usize;
        Ok(Self {
            clip,
            params,
            tokenizer,
            resolution: side,
            capacity,
        })
    }

    /// Writes the features of the images in a TSV file of the reference, in ascending order of image id. Calls
    /// `progress` with the numbers of completed and of all images.
    ///
    /// # Errors
    /// If a line has no valid image; then nothing is written.
    pub fn embed_image_file(
        &mut self,
        images: &Path,
        to: &Path,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<()> {
        let mut images = TsvImages::open(images)?;
        let total = images.ids().len();
        let width = self.clip.feature_width();
        write_feature_file(to, FeatureKind::Images, total, width, |writer| {
            for first in (0..total).step_by(self.capacity.batch) {
                let last = total.min(first + self.capacity.batch);
                let pictures =
                    (first..last).map(|place| ImageToEmbed::from_file(&mut images, place));
                self.embed_images(&pictures.collect::<Result<Vec<_>>>()?, writer)?;
                progress(last, total);
            }

            Ok(())
        })
    }

    /// Writes the features of a prepared data set's images, in the order of its shards.
    ///
    /// # Errors
    /// If a shard is damaged or an image does not decode; then nothing is written.
    pub fn embed_dataset_images(
        &mut self,
        dataset: &Dataset,
        to: &Path,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<()> {
        let mut done = 0;
        let total = dataset.index().images as usize;
        let width = self.clip.feature_width();
        write_feature_file(to, FeatureKind::Images, total, width, |writer| {
            for_each_shard(dataset, |samples| {
                for samples in samples.chunks(self.capacity.batch) {
                    let images: Vec<_> = samples.iter().map(ImageToEmbed::from_sample).collect();
                    self.embed_images(&images, writer)?;
                    done += samples.len();
                    progress(done, total);
                }

                Ok(())
            })
        })
    }

    /// Writes the features of texts, in their order, normalized as the reference's data sets are.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn embed_texts(
        &mut self,
        texts: &[TextToEmbed],
        to: &Path,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<()> {
        let mut done = 0;
        let total = texts.len();
        let width = self.clip.feature_width();
        write_feature_file(to, FeatureKind::Texts, total, width, |writer| {
            for texts in texts.chunks(self.capacity.batch) {
                let ruled: Vec<_> = texts
                    .iter()
                    .map(|text| normalize_dataset_text(&text.text))
                    .collect();
                let (ids, offsets) = self.tokenizer.encode_batch(&ruled, self.capacity.context);
                let packed = PackedTexts {
                    ids: &ids,
                    offsets: &offsets,
                };

                let features = self.clip.encode_texts(&self.params, packed).to_host();
                writer.write_features(texts.iter().map(|text| &text.text_id), &features)?;
                done += texts.len();
                progress(done, total);
            }

            Ok(())
        })
    }

    fn embed_images<W: Write + Send>(
        &mut self,
        pictures: &[ImageToEmbed],
        writer: &mut FeatureWriter<W>,
    ) -> Result<()> {
        let size = 3 * self.resolution * self.resolution;
        let mut planes = vec![0; pictures.len() * size];
        let places = pictures.par_iter().zip(planes.par_chunks_mut(size));
        places.try_for_each(|(picture, planes)| {
            preprocess_image(
                &picture.bytes,
                self.resolution,
                Augmentation::None,
                AugmentKey::default(),
                planes,
            )
            .map_err(|error| Error::Data(format!("{}: {error}", picture.location)))
        })?;

        let features = self
            .clip
            .encode_images(&mut self.params, PixelBatch::Bytes(&planes))
            .to_host();

        writer.write_features(pictures.iter().map(|picture| &picture.image_id), &features)
    }
}

impl ImageToEmbed {
    fn from_file(images: &mut TsvImages, place: usize) -> Result<Self> {
        let bytes = images.read_image(place)?.into();
        Ok(Self {
            image_id: images.ids()[place].clone(),
            location: images.location(place),
            bytes,
        })
    }

    fn from_sample(sample: &Sample) -> Self {
        let Sample {
            image_id,
            key,
            image,
            ..
        } = sample.clone();

        Self {
            image_id,
            location: key,
            bytes: image,
        }
    }
}

/// Writes features in the format of the file's extension, with the ids of an array in a companion file.
fn write_feature_file(
    to: &Path,
    kind: FeatureKind,
    count: usize,
    width: usize,
    write: impl FnOnce(&mut FeatureWriter<&mut BufWriter<&File>>) -> Result<()>,
) -> Result<()> {
    let mut ids = None;
    atomic_file::write_atomically(to, |file| {
        let mut writer =
            FeatureWriter::new(features::format_from_path(to), kind, count, width, file)?;
        write(&mut writer)?;
        ids = writer.finish()?;
        Ok(())
    })?;

    // After the array: two files cannot be renamed in one atomic step.
    let Some(ids) = ids else { return Ok(()) };
    let beside = to.with_extension("ids.jsonl");
    atomic_file::write_atomically(&beside, |file| {
        file.write_all(&ids)
            .map_err(Error::io_context("write", &beside))
    })
}

/// Reads the texts of a JSON Lines file of the reference, in its order.
///
/// # Errors
/// If it cannot be read.
pub fn read_text_file(path: &Path) -> Result<Vec<TextToEmbed>> {
    let mut texts = Vec::new();
    JsonLines::open(path, "{\"text_id\": 1, \"text\": \"…\"}")?.for_each(
        |_, text: TextToEmbed| -> Result<()> {
            texts.push(text);
            Ok(())
        },
    )?;

    Ok(texts)
}

/// Reads the texts of a prepared data set, each once: in the order of its shards, then those without an image.
///
/// # Errors
/// A shard that is damaged.
pub fn read_dataset_texts(dataset: &Dataset) -> Result<Vec<TextToEmbed>> {
    let mut texts = Vec::new();
    let mut seen = HashSet::new();
    let mut keep = |SampleText { text_id, text }: SampleText| {
        // Shards repeat a text for every image that it describes.
        if seen.insert(text_id.clone()) {
            texts.push(TextToEmbed { text_id, text });
        }
    };

    for_each_shard(dataset, |samples| {
        samples
            .into_iter()
            .flat_map(|sample| sample.texts)
            .for_each(&mut keep);

        Ok(())
    })?;

    dataset.read_loose_texts()?.into_iter().for_each(keep);
    Ok(texts)
}

/// Calls `take` with the samples of each shard in turn.
fn for_each_shard(
    dataset: &Dataset,
    mut take: impl FnMut(Vec<Sample>) -> Result<()>,
) -> Result<()> {
    for number in 0..dataset.index().shards.len() {
        let shard = dataset.read_shard(number)?;
        match shard.damage {
            // Nothing is skipped: the header of an array already has the number of rows of the
            // index.
            Some(damage) => return Err(Error::Data(damage)),
            None => take(shard.samples)?,
        }
    }

    Ok(())
}
