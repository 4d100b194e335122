//! Reads a share of a data set image by image, and decodes it for the encoder.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::ImageLocation;
use crate::error::Result;
use crate::evaluate::EncoderInputSizes;
use crate::evaluate::skip_budget::EvalSkipBudget;
use cnclip_data::image::preprocess::preprocess_for_eval;
use cnclip_data::shard::{Dataset, Sample, SampleText, Shard};

/// Decoded images for the encoder, and where they are from.
#[derive(Default)]
pub(super) struct ImageChunk {
    pub(super) planes: Vec<u8>,
    pub(super) scanned: ScannedSamples,
}

/// Images and texts of a part of a data set; a text may refer to one of the images.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct ScannedSamples {
    pub(super) images: Vec<ImageLocation>,
    pub(super) texts: Vec<(SampleText, Option<usize>)>,
    pub(super) unusable: EvalSkipBudget,
}

/// Reads a share of all images in chunks that fit an encoder, until there are no more or `give` refuses one.
pub(super) fn stream_image_chunks(
    dataset: &Dataset,
    sizes: EncoderInputSizes,
    share: Range<usize>,
    give: impl Fn(Result<ImageChunk>) -> bool,
) -> Option<()> {
    let give = |chunk| give(chunk).then_some(());
    let mut first = 0;
    for (number, part) in dataset.index().shards.iter().enumerate() {
        let end = first + part.images as usize;
        let own = share.start.max(first)..share.end.min(end);
        let begins = own.start == first;
        let ends = own.end == end;
        // Relative to the shard. Saturating, because a share can end before the shard begins.
        let own = own.start.saturating_sub(first)..own.end.saturating_sub(first);

        first = end;
        if own.is_empty() {
            continue;
        }

        let shard = match dataset.read_shard(number) {
            Ok(shard) => shard,
            Err(error) => return give(Err(error.into())),
        };

        // Exactly one rank may report a damaged shard: the one whose share has the shard's first image.
        if begins {
            give(Ok(ImageChunk {
                scanned: skips_from_damage(&shard, part.images),
                ..ImageChunk::default()
            }))?;
        }

        // The index can count fewer images than the shard has: the rank of the last one takes the rest.
        let last = if ends {
            shard.samples.len()
        } else {
            own.end.min(shard.samples.len())
        };

        let samples = shard.samples.get(own.start..last).unwrap_or_default();
        for (first, samples) in (own.start..)
            .step_by(sizes.batch_size)
            .zip(samples.chunks(sizes.batch_size))
        {
            give(Ok(ImageChunk::decode_samples(
                &shard.uri,
                number,
                first,
                samples,
                sizes.image_size,
            )))?;
        }
    }

    Some(())
}

/// The texts without an image.
pub(super) fn read_unpaired_texts(dataset: &Dataset) -> Result<ScannedSamples> {
    let mut found = ScannedSamples::default();
    let texts = dataset.read_loose_texts()?.into_iter();
    texts.for_each(|text| found.push_text(dataset.uri(), text, None));
    Ok(found)
}

/// The images that a damaged shard lacks, with the damage as the reason.
fn skips_from_damage(shard: &Shard, images: u64) -> ScannedSamples {
    let missing = images.saturating_sub(shard.samples.len() as u64);
    let faults: Vec<_> = shard.damage.iter().cloned().collect();
    // At least one skip for a damaged shard, even if no image is missing: damage is never silent.
    let unusable = EvalSkipBudget::new(missing.max(faults.len() as u64), faults);
    ScannedSamples {
        unusable,
        ..ScannedSamples::default()
    }
}

impl ImageChunk {
    /// The images of some samples that decode, and the texts of all.
    fn decode_samples(
        uri: &str,
        shard: usize,
        first: usize,
        samples: &[Sample],
        side: usize,
    ) -> Self {
        // Decoded in parallel, collected in order: ids and features are matched by position.
        let images: Vec<_> = samples
            .par_iter()
            .map(|sample| preprocess_for_eval(&sample.image, side))
            .collect();

        let mut chunk = Self::default();
        let scanned = &mut chunk.scanned;

        for (number, (sample, image)) in samples.iter().zip(images).enumerate() {
            let image = match image {
                Ok(planes) => {
                    chunk.planes.extend(planes);
                    scanned.images.push(ImageLocation {
                        shard,
                        sample: first + number,
                        image_id: sample.image_id.clone(),
                    });

                    Some(scanned.images.len() - 1)
                }
                Err(error) => {
                    scanned
                        .unusable
                        .record_skip(format!("{} of {uri}: {error}.", sample.key));
                    None
                }
            };

            // Texts of an image that does not decode remain candidates; as queries without a
            // relevant image they are left out of recall.
            sample
                .texts
                .iter()
                .for_each(|text| scanned.push_text(uri, text.clone(), image));
        }

        chunk
    }
}

impl ScannedSamples {
    fn push_text(&mut self, uri: &str, text: SampleText, image: Option<usize>) {
        // Empty text tokenizes to [CLS] [SEP], which is a valid input and would be ranked.
        match text.text.trim() {
            "" => self
                .unusable
                .record_skip(format!("Text {} of {uri} is empty.", text.text_id)),
            _ => self.texts.push((text, image)),
        }
    }

    /// Adds what was scanned after it.
    pub(super) fn append(&mut self, next: Self) {
        let first = self.images.len();
        self.images.extend(next.images);

        for (text, image) in next.texts {
            let image = image.map(|image| first + image);
            self.texts.push((text, image));
        }

        self.unusable.merge_skips(next.unusable);
    }
}
