//! What a part of a data set holds, picture by picture, on its way to the encoder. Encodes nothing.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Place;
use crate::error::Result;
use crate::evaluate::Sizes;
use crate::evaluate::unusable::Unusable;
use cnclip_data::preprocess::plain;
use cnclip_data::shard::{Caption, Dataset, Sample, Shard};

/// Pictures on their way to the encoder, and what is known of them.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) planes: Vec<u8>,
    pub(super) found: Found,
}

/// What was found in a part of a data set; a text may name one of the pictures.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) images: Vec<Place>,
    pub(super) captions: Vec<(Caption, Option<usize>)>,
    pub(super) unusable: Unusable,
}

/// Reads a share of all pictures in chunks that fit an encoder, until there is no more or `give` refuses
/// one.
pub(super) fn read(
    dataset: &Dataset,
    sizes: Sizes,
    share: Range<usize>,
    give: impl Fn(Result<Chunk>) -> bool,
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

        let shard = match dataset.shard(number) {
            Ok(shard) => shard,
            Err(error) => return give(Err(error.into())),
        };

        // Whoever has its first picture tells what it lacks.
        if begins {
            give(Ok(Chunk {
                found: damage(&shard, part.images),
                ..Chunk::default()
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
            .step_by(sizes.batch)
            .zip(samples.chunks(sizes.batch))
        {
            let place = (number, first);
            give(Ok(Chunk::of(&shard.uri, place, samples, sizes.side)))?;
        }
    }

    Some(())
}

/// The texts that no picture has.
pub(super) fn loose(dataset: &Dataset) -> Result<Found> {
    let mut found = Found::default();
    let texts = dataset.loose_texts()?.into_iter();
    texts.for_each(|text| found.caption(dataset.uri(), text, None));
    Ok(found)
}

/// What a shard lacks. Its damage is one of the faults, so that it is told.
fn damage(shard: &Shard, images: u64) -> Found {
    let missing = images.saturating_sub(shard.samples.len() as u64);
    let faults: Vec<_> = shard.damage.iter().cloned().collect();
    let unusable = Unusable::new(missing.max(faults.len() as u64), faults);
    Found {
        unusable,
        ..Found::default()
    }
}

impl Chunk {
    /// The pictures of some samples that decode, and the captions of all.
    fn of(uri: &str, (shard, first): (usize, usize), samples: &[Sample], side: usize) -> Self {
        let pictures = samples.par_iter().map(|sample| plain(&sample.image, side));
        let pictures: Vec<_> = pictures.collect();
        let Self {
            mut planes,
            mut found,
        } = Self::default();

        for (number, (sample, picture)) in samples.iter().zip(pictures).enumerate() {
            let image = match picture {
                Ok(picture) => {
                    planes.extend(picture);
                    let (sample, image_id) = (first + number, sample.image_id.clone());
                    found.images.push(Place {
                        shard,
                        sample,
                        image_id,
                    });

                    Some(found.images.len() - 1)
                }
                Err(error) => {
                    found
                        .unusable
                        .add(format!("{} of {uri}: {error}.", sample.key));
                    None
                }
            };

            sample
                .captions
                .iter()
                .for_each(|text| found.caption(uri, text.clone(), image));
        }

        Self { planes, found }
    }
}

impl Found {
    fn caption(&mut self, uri: &str, caption: Caption, image: Option<usize>) {
        match caption.text.trim() {
            "" => self
                .unusable
                .add(format!("Text {} of {uri} is empty.", caption.text_id)),
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
        self.unusable.append(next.unusable);
    }
}
