//! The shards that are in use, in memory, with what was made of their images and texts. Decides which to evict;
//! never which sample comes next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use cnclip_compute::sync::lock_ignoring_poison;

use crate::error::Result;
use crate::image::decode::DecodedImage;
use crate::shard::{Dataset, Shard};

/// An image after the part of its preparation that is the same every time.
#[derive(Debug)]
pub(super) enum CachedImage {
    /// Decoded: augmentation depends on the step.
    Decoded(DecodedImage),
    /// `[3, side, side]`: nothing is left to do.
    Preprocessed(Box<[u8]>),
}

/// A shard in memory.
#[derive(Debug)]
pub(super) struct CachedShard {
    pub(super) shard: Shard,
    /// By sample. Each is made by the first thread that needs it, under a lock of its own.
    pub(super) images: Vec<OnceLock<CachedImage>>,
    /// Hashes of the encoded images, by sample.
    pub(super) fingerprints: Vec<OnceLock<u64>>,
    /// Token ids of the text, by pair.
    pub(super) token_ids: Vec<OnceLock<Box<[u32]>>>,
}

/// The most recently used shards, up to a number of bytes.
#[derive(Debug)]
pub(super) struct ShardCache {
    dataset: Dataset,
    max_bytes: u64,
    slots: Mutex<CacheSlots>,
}

#[derive(Debug, Default)]
struct CacheSlots {
    /// Counts uses, to order them.
    clock: u64,
    by_shard: HashMap<u32, CacheSlot>,
}

#[derive(Debug)]
struct CacheSlot {
    last_used: u64,
    bytes: u64,
    /// `None` until it is read, and after a failure.
    shard: Arc<Mutex<Option<Arc<CachedShard>>>>,
}

impl ShardCache {
    /// Keeps at most `max_bytes` of shards, one at least.
    pub(super) fn new(dataset: Dataset, max_bytes: u64) -> Self {
        Self {
            dataset,
            max_bytes,
            slots: Mutex::default(),
        }
    }

    /// Whether the whole data set fits, so that nothing is ever read twice.
    pub(super) fn fits_dataset(&self) -> bool {
        self.dataset
            .index()
            .shards
            .iter()
            .map(|part| part.bytes)
            .sum::<u64>()
            <= self.max_bytes
    }

    /// A shard, read if it is not here. Threads that ask for the same one wait for one reading.
    ///
    /// # Errors
    /// If the store fails; the next caller tries again.
    pub(super) fn load_shard(&self, number: u32) -> Result<Arc<CachedShard>> {
        // Two locks: the one of all slots is held for a moment, the one of a slot while its shard is read, so
        // that threads that need other shards go on.
        let slot = self.touch_slot(number);
        let mut shard = lock_ignoring_poison(&slot);
        if let Some(loaded) = shard.as_ref() {
            return Ok(loaded.clone());
        }

        let read = self.dataset.read_shard(number as usize)?;
        if let Some(damage) = &read.damage {
            tracing::warn!("{damage}");
        }

        let images = read.samples.iter().map(|_| OnceLock::new()).collect();
        let fingerprints = read.samples.iter().map(|_| OnceLock::new()).collect();
        let token_ids = read.pairs.iter().map(|_| OnceLock::new()).collect();
        let loaded = Arc::new(CachedShard {
            shard: read,
            images,
            fingerprints,
            token_ids,
        });

        Ok(shard.insert(loaded).clone())
    }

    fn touch_slot(&self, number: u32) -> Arc<Mutex<Option<Arc<CachedShard>>>> {
        let mut slots = lock_ignoring_poison(&self.slots);
        slots.clock += 1;
        let used = slots.clock;
        let bytes = self.dataset.index().shards[number as usize].bytes;
        let slot = slots.by_shard.entry(number).or_insert_with(|| CacheSlot {
            last_used: used,
            bytes,
            shard: Arc::default(),
        });

        slot.last_used = used;
        let shard = slot.shard.clone();
        slots.evict_lru(self.max_bytes);
        shard
    }
}

impl CacheSlots {
    /// Forgets the shards that were used longest ago. A thread that works on one holds it until it is done.
    fn evict_lru(&mut self, max_bytes: u64) {
        let mut bytes: u64 = self.by_shard.values().map(|slot| slot.bytes).sum();
        // A scan and no ordered list: a cache holds tens of shards, and a use is a read of a hundred megabytes.
        while bytes > max_bytes && self.by_shard.len() > 1 {
            let oldest = self.by_shard.iter().min_by_key(|(_, slot)| slot.last_used);
            let Some((&number, slot)) = oldest else {
                return;
            };

            bytes -= slot.bytes;
            self.by_shard.remove(&number);
        }
    }
}
