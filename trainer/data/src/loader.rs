//! Turns a step into a batch on background threads, a bounded distance ahead of the reader.
//! Decides how pictures and captions are kept and what replaces a pair that cannot be used; never
//! which pairs a step has (that is `order`).

mod pipeline;
mod rows;
mod shelf;
mod skips;

use std::ops::Range;
use std::sync::Arc;

use cnclip_crds::stage::{Augmentation, Duplicates};

use super::order::{Order, WINDOW_BYTES};
use super::shard::{Dataset, Id};
use super::tokenize::Tokenizer;
use crate::error::{Error, Result};
use cnclip_compute::digest::Fingerprint;
use pipeline::Pipeline;
use rows::{Rows, Source};
pub use skips::{Bad, Skipped};

/// Pairs that one thread prepares at a time.
const ROWS: usize = 32;
/// Steps whose shards are fetched ahead, at most.
const MOST_STEPS_FETCHED: u64 = 64;

/// What a loader makes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Pairs of a step, over all ranks.
    pub global_batch: usize,
    /// The part of it that this rank works on.
    pub share: Range<usize>,
    /// Steps to make: from the first not yet done to the last, exclusive.
    pub steps: Range<u64>,
    /// Width and height of a picture, in pixels.
    pub side: usize,
    /// What happens to pictures.
    pub augmentation: Augmentation,
    /// Whether pairs are told by what they are known by, or not at all.
    pub duplicates: Duplicates,
    /// Longest caption, in tokens.
    pub context_length: usize,
    /// Threads that prepare pairs.
    pub threads: usize,
    /// Batches ready before the reader asks.
    pub batches_ahead: usize,
    /// Decoded pictures kept in memory, in bytes; only where the whole data set is.
    pub picture_bytes: u64,
    /// Share of the pairs that may be unusable, 0 to 1.
    pub most_skipped: f64,
}

impl Options {
    /// One rank that makes all of every batch on one thread, without augmentation.
    pub fn new(seed: u64, global_batch: usize, steps: Range<u64>, side: usize) -> Self {
        Self {
            seed,
            global_batch,
            share: 0..global_batch,
            steps,
            side,
            augmentation: Augmentation::None,
            duplicates: Duplicates::Negatives,
            context_length: 52,
            threads: 1,
            batches_ahead: 2,
            picture_bytes: 512 << 20,
            most_skipped: 0.01,
        }
    }
}

/// One rank's share of a step.
///
/// # Shapes
/// `pixels` is `[pairs, 3, side, side]`; caption `i` is `ids[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The step it is for.
    pub step: u64,
    /// Levels of the pictures.
    pub pixels: Vec<u8>,
    /// Token ids of all captions, without padding.
    pub ids: Vec<u32>,
    /// Where each caption begins in `ids`, and where the last one ends.
    pub offsets: Vec<usize>,
    /// `(image, text)` numbers of each pair.
    pub pairs: Vec<(Id, Id)>,
    /// What each pair is known by; nothing where duplicates are not looked for.
    pub fingerprints: Vec<Fingerprint>,
}

impl Batch {
    fn push(&mut self, rows: Rows) {
        self.pixels.extend(rows.pixels);
        self.pairs.extend(rows.pairs);
        self.fingerprints.extend(rows.fingerprints);

        for ids in rows.ids {
            self.ids.extend_from_slice(&ids);
            self.offsets.push(self.ids.len());
        }
    }
}

/// The batches of a rank, in the order of the steps.
///
/// # Guarantees
/// The same options and data set give the same batches, whatever the number of threads; the shares
/// of a step's ranks together are its global batch.
#[derive(Debug)]
pub struct Loader {
    source: Arc<Source>,
    rows: Pipeline<Rows>,
    fetched: Pipeline<()>,
    chunks: u64,
    next: u64,
}

impl Loader {
    /// Starts to prepare batches.
    ///
    /// # Errors
    /// If the global batch is larger than the data set, or the share no part of it.
    pub fn start(dataset: Dataset, tokenizer: Arc<Tokenizer>, options: Options) -> Result<Self> {
        let Options { share, steps, .. } = options.clone();
        if share.is_empty() || share.end > options.global_batch {
            return Err(Error::Bug(format!(
                "a rank's share is pairs {share:?} of {}",
                options.global_batch
            )));
        }

        let order = Order::new(dataset.index(), options.seed, options.global_batch)?;
        let fetch_ahead = fetch_ahead(&dataset, &options);
        let threads = options.threads;
        let ahead = options.batches_ahead.max(1) as u64;
        let source = Arc::new(Source::new(dataset, order, tokenizer, options));

        let chunks = share.len().div_ceil(ROWS) as u64;
        let work = source.clone();
        let rows = Pipeline::start(
            "load",
            steps.start * chunks..steps.end * chunks,
            ahead * chunks,
            threads,
            move |number| {
                let first = share.start + (number % chunks) as usize * ROWS;
                work.rows(number / chunks, first..share.end.min(first + ROWS))
            },
        )?;

        let work = source.clone();
        let fetched = Pipeline::start(
            "fetch",
            steps.clone(),
            fetch_ahead.max(ahead),
            2,
            move |step| work.fetch(step),
        )?;

        Ok(Self {
            source,
            rows,
            fetched,
            chunks,
            next: steps.start,
        })
    }

    /// Steps of one pass over the data set.
    pub fn steps_per_epoch(&self) -> u64 {
        self.source.order.steps_per_epoch()
    }

    /// The batch of the next step; `None` after the last.
    ///
    /// # Errors
    /// If a shard cannot be fetched or too many pairs cannot be used.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        // Rows need the shards of their step, so this waits for nothing that they do not wait for.
        if let Some(fetched) = self.fetched.next() {
            fetched?;
        }

        let mut batch = Batch {
            step: self.next,
            offsets: vec![0],
            ..Batch::default()
        };

        for _ in 0..self.chunks {
            match self.rows.next() {
                Some(rows) => batch.push(rows?),
                None => return Ok(None),
            }
        }

        self.next += 1;
        Ok(Some(batch))
    }

    /// The pairs that could not be used so far.
    pub fn skipped(&self) -> Skipped {
        self.source.skips.so_far()
    }

    /// The pairs that this rank could not use and has not told of before.
    pub fn untold(&self) -> Vec<Bad> {
        self.source.skips.untold()
    }

    /// Counts the pairs that any rank could not use.
    ///
    /// # Errors
    /// If too large a share of what all ranks drew is bad.
    pub fn learn(&self, told: &[Bad]) -> Result<()> {
        self.source.skips.learn(told)
    }
}

/// Steps that make up half a window.
fn fetch_ahead(dataset: &Dataset, options: &Options) -> u64 {
    let index = dataset.index();
    let bytes: u64 = index.shards.iter().map(|part| part.bytes).sum();
    let step_bytes = bytes / index.pairs.max(1) * options.global_batch as u64;
    (WINDOW_BYTES / 2 / step_bytes.max(1)).clamp(1, MOST_STEPS_FETCHED)
}

#[cfg(test)]
mod tests;
