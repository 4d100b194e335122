//! What a part of a data set holds, picture by picture, on its way to the encoder. Encodes nothing.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::ImageLocation;
use crate::error::Result;
use crate::evaluate::EncoderInputSizes;
use crate::evaluate::skip_budget::EvalSkipBudget;
use cnclip_data::image::preprocess::preprocess_for_eval;
use cnclip_data::shard::{Dataset, Sample, SampleText, Shard};

/// Pictures on their way to the encoder, and what is known of them.
#[derive(Default)]
pub(super) struct ImageChunk {
    pub(super) planes: Vec<u8>,
    pub(super) scanned: ScannedSamples,
}

/// What was found in a part of a data set; a text may name one of the pictures.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct ScannedSamples {
    pub(super) images: Vec<ImageLocation>,
    pub(super) captions: Vec<(SampleText, Option<usize>)>,
    pub(super) unusable: EvalSkipBudget,
}

/// Reads a share of all pictures in chunks that fit an encoder, until there is no more or `give` refuses
/// one.
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
        let own = own.start.saturating_sub(first)..own.end.saturating_sub(first);

        first = end;
        if own.is_empty() {
            continue;
        }

        let shard = match dataset.read_shard(number) {
            Ok(shard) => shard,
            Err(error) => return give(Err(error.into())),
        };

        // Whoever has its first picture tells what it lacks.
        if begins {
            give(Ok(ImageChunk {
                scanned: skips_from_damage(&shard, part.images),
                ..ImageChunk::default()
            }))?;
        }

        // Whoever has its last one has all that there are.
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
            let place = (number, first);
            give(Ok(ImageChunk::decode_samples(
                &shard.uri,
                place,
                samples,
                sizes.image_size,
            )))?;
        }
    }

    Some(())
}

/// The texts that no picture has.
pub(super) fn read_unpaired_texts(dataset: &Dataset) -> Result<ScannedSamples> {
    let mut found = ScannedSamples::default();
    let texts = dataset.read_loose_texts()?.into_iter();
    texts.for_each(|text| found.push_text(dataset.uri(), text, None));
    Ok(found)
}

/// What a shard lacks. Its damage is one of the faults, so that it is told.
fn skips_from_damage(shard: &Shard, images: u64) -> ScannedSamples {
    let missing = images.saturating_sub(shard.samples.len() as u64);
    let faults: Vec<_> = shard.damage.iter().cloned().collect();
    let unusable = EvalSkipBudget::new(missing.max(faults.len() as u64), faults);
    ScannedSamples {
        unusable,
        ..ScannedSamples::default()
    }
}

impl ImageChunk {
    /// The pictures of some samples that decode, and the captions of all.
    fn decode_samples(
        uri: &str,
        (shard, first): (usize, usize),
        samples: &[Sample],
        side: usize,
    ) -> Self {
        let pictures = samples
            .par_iter()
            .map(|sample| preprocess_for_eval(&sample.image, side));
        let pictures: Vec<_> = pictures.collect();
        let Self {
            mut planes,
            scanned: mut found,
        } = Self::default();

        for (number, (sample, picture)) in samples.iter().zip(pictures).enumerate() {
            let image = match picture {
                Ok(picture) => {
                    planes.extend(picture);
                    let (sample, image_id) = (first + number, sample.image_id.clone());
                    found.images.push(ImageLocation {
                        shard,
                        sample,
                        image_id,
                    });

                    Some(found.images.len() - 1)
                }
                Err(error) => {
                    found
                        .unusable
                        .record_skip(format!("{} of {uri}: {error}.", sample.key));
                    None
                }
            };

            sample
                .texts
                .iter()
                .for_each(|text| found.push_text(uri, text.clone(), image));
        }

        Self {
            planes,
            scanned: found,
        }
    }
}

impl ScannedSamples {
    fn push_text(&mut self, uri: &str, caption: SampleText, image: Option<usize>) {
        match caption.text.trim() {
            "" => self
                .unusable
                .record_skip(format!("Text {} of {uri} is empty.", caption.text_id)),
            _ => self.captions.push((caption, image)),
        }
    }

    /// Adds what was found behind it.
    pub(super) fn append(&mut self, next: Self) {
        let first = self.images.len();
        self.images.extend(next.images);
        let captions = next.captions.into_iter();
        self.captions
            .extend(captions.map(|(text, image)| (text, image.map(|image| first + image))));
        self.unusable.merge_skips(next.unusable);
    }
}
