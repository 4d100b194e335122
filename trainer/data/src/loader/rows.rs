//! Makes a few pairs of a batch: finds them, prepares picture and caption, and replaces the ones
//! that cannot be used. Pure but for what it keeps to be faster.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cnclip_crds::stage::{Augmentation, Duplicates};

use super::Options;
use super::shelf::{Loaded, Ready, Shelf};
use super::skips::{Reason, Skips};
use crate::augment::Key;
use crate::decode::{Picture, Pixels, decode};
use crate::error::{Error, Result};
use crate::order::{Draw, Order, WINDOW_BYTES};
use crate::preprocess::vary;
use crate::shard::{Dataset, Id};
use crate::tokenize::{Tokenizer, dataset_rules};
use cnclip_compute::digest::Fingerprint;

/// Replacements tried for one pair: more in a row means that nothing can be used.
const REPLACEMENTS: usize = 100;
/// Global batches kept drawn, for the threads that work on the same ones.
const BATCHES_KEPT: usize = 4;

/// A few pairs of a batch.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) pixels: Vec<u8>,
    pub(super) ids: Vec<Box<[u32]>>,
    pub(super) pairs: Vec<(Id, Id)>,
    pub(super) fingerprints: Vec<Fingerprint>,
}

/// Everything that rows are made of.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) order: Order,
    pub(super) skips: Skips,
    shelf: Shelf,
    tokenizer: Arc<Tokenizer>,
    options: Options,
    /// Bytes of pictures that may still be kept.
    picture_bytes: AtomicU64,
    batches: Mutex<Vec<(u64, Arc<[Draw]>)>>,
}

/// A pair that cannot be used: why, and where it is.
struct Bad {
    reason: Reason,
    told: String,
}

impl Source {
    pub(super) fn new(
        dataset: Dataset,
        order: Order,
        tokenizer: Arc<Tokenizer>,
        options: Options,
    ) -> Self {
        let ranks = (options.global_batch / options.share.len().max(1)) as u64;
        let skips = Skips::new((dataset.index().pairs, ranks), options.most_skipped);
        // The window that is read and the one that is fetched.
        let shelf = Shelf::new(dataset, 2 * WINDOW_BYTES);
        let keep = if shelf.holds_all() {
            options.picture_bytes
        } else {
            0
        };

        let picture_bytes = AtomicU64::new(keep);
        let batches = Mutex::default();
        Self {
            order,
            skips,
            shelf,
            tokenizer,
            options,
            picture_bytes,
            batches,
        }
    }

    /// Brings the shards of a step into memory.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn fetch(&self, step: u64) -> Result<()> {
        let batch = self.batch(step);
        let share = &batch[self.options.share.clone()];
        let mut runs = share.chunk_by(|a, b| a.shard == b.shard);
        runs.try_for_each(|run| self.shelf.shard(run[0].shard).map(drop))
    }

    /// The pairs at `places` of a step's global batch.
    ///
    /// # Errors
    /// If the store fails, or too many pairs cannot be used.
    pub(super) fn rows(&self, step: u64, places: Range<usize>) -> Result<Rows> {
        let batch = self.batch(step);
        let mut rows = Rows::default();
        rows.pixels.reserve_exact(places.len() * self.planes());
        self.skips.drawn(places.len() as u64);

        for place in places {
            let key = Key {
                seed: self.options.seed,
                step,
                sample: place as u64,
            };

            self.push(batch[place], key, &mut rows)?;
        }

        Ok(rows)
    }

    /// Appends a pair, or the first of its replacements that can be used.
    fn push(&self, mut draw: Draw, key: Key, rows: &mut Rows) -> Result<()> {
        for _ in 0..REPLACEMENTS {
            let loaded = self.shelf.shard(draw.shard)?;
            match self.pair(&loaded, &draw, key, rows) {
                Ok(()) => return Ok(()),
                Err(Bad { reason, told }) => self.skips.add(&draw, reason, || told)?,
            }

            draw = self.order.instead_of(&draw);
        }

        let examples = self.skips.so_far().examples.join(" ");
        Err(Error::Data(format!(
            "{REPLACEMENTS} pairs in a row cannot be used. The first of all: {examples}"
        )))
    }

    fn pair(&self, loaded: &Loaded, draw: &Draw, key: Key, rows: &mut Rows) -> Result<(), Bad> {
        let shard = &loaded.shard;
        let Some(&(sample, caption)) = shard.pairs.get(draw.pair as usize) else {
            let damage = shard.damage.clone();
            let told = damage.unwrap_or_else(|| format!("{} is not as indexed.", shard.uri));
            return Err(Bad {
                reason: Reason::Shard,
                told,
            });
        };

        let place = sample as usize;
        let sample = &shard.samples[place];
        let bad = |reason, what: String| {
            let told = format!("{} of {}: {what}.", sample.key, shard.uri);
            Bad { reason, told }
        };

        let caption = &sample.captions[caption as usize];
        if caption.text.trim().is_empty() {
            return Err(bad(
                Reason::Caption,
                format!("text {} is empty", caption.text_id),
            ));
        }

        self.picture(loaded, place, key, &mut rows.pixels)
            .map_err(|error| bad(Reason::Picture, error))?;
        let ids = loaded.captions[draw.pair as usize].get_or_init(|| {
            let text = dataset_rules(&caption.text);
            self.tokenizer
                .encode(&text, self.options.context_length)
                .into()
        });

        if self.options.duplicates == Duplicates::Positives {
            let image = *loaded.fingerprints[place].get_or_init(|| fingerprint(&sample.image));
            rows.fingerprints.push(Fingerprint {
                image,
                text: fingerprint(ids),
            });
        }

        rows.ids.push(ids.clone());
        rows.pairs
            .push((sample.image_id.clone(), caption.text_id.clone()));
        Ok(())
    }

    /// Appends the planes of a picture, made of what is kept of it if anything is.
    fn picture(
        &self,
        loaded: &Loaded,
        place: usize,
        key: Key,
        pixels: &mut Vec<u8>,
    ) -> Result<(), String> {
        let start = pixels.len();
        let Options {
            side, augmentation, ..
        } = self.options;

        match loaded.pictures[place].get() {
            Some(Ready::Planes(planes)) => pixels.extend_from_slice(planes),
            Some(Ready::Picture(picture)) => {
                pixels.resize(start + self.planes(), 0);
                vary(picture, side, augmentation, key, &mut pixels[start..]);
            }
            None => {
                let picture =
                    decode(&loaded.shard.samples[place].image).map_err(|e| e.to_string())?;
                pixels.resize(start + self.planes(), 0);
                vary(&picture, side, augmentation, key, &mut pixels[start..]);
                self.keep(loaded, place, picture, &pixels[start..]);
            }
        }

        Ok(())
    }

    /// Keeps a picture for the next epoch if there is room.
    fn keep(&self, loaded: &Loaded, place: usize, picture: Picture, planes: &[u8]) {
        let fixed = self.options.augmentation == Augmentation::None;
        let bytes = if fixed { planes.len() } else { size(&picture) } as u64;
        let room = |left: u64| left.checked_sub(bytes);

        if self
            .picture_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_err()
        {
            return;
        }

        loaded.pictures[place].get_or_init(|| match fixed {
            true => Ready::Planes(planes.into()),
            false => Ready::Picture(picture),
        });
    }

    fn planes(&self) -> usize {
        3 * self.options.side * self.options.side
    }

    /// A global batch, drawn once for all threads.
    fn batch(&self, step: u64) -> Arc<[Draw]> {
        let find = |kept: &[(u64, Arc<[Draw]>)]| {
            kept.iter()
                .find(|(of, _)| *of == step)
                .map(|(_, batch)| batch.clone())
        };

        let mut kept = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batch) = find(&kept) {
            return batch;
        }

        let batch: Arc<[Draw]> = self.order.batch(step).into();
        kept.insert(0, (step, batch.clone()));
        kept.truncate(BATCHES_KEPT);
        batch
    }
}

/// Equal things have equal ones; two different things have so once in 2⁶⁴.
fn fingerprint(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn size(picture: &Picture) -> usize {
    match &picture.pixels {
        Pixels::Gray16(levels) => 2 * levels.len(),
        Pixels::Gray(levels)
        | Pixels::GrayAlpha(levels)
        | Pixels::Rgb(levels)
        | Pixels::Listed(levels)
        | Pixels::Rgba(levels)
        | Pixels::Cmyk(levels) => levels.len(),
    }
}
