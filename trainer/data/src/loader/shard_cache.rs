//! Keeps the shards that are in use in memory, with what was made of their pictures and captions.
//! Decides what to let go of; never which pair comes next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::Result;
use crate::image::decode::DecodedImage;
use crate::shard::{Dataset, Shard};

/// A picture after the part of its preparation that is the same every time.
#[derive(Debug)]
pub(super) enum CachedImage {
    /// Decoded: the rest depends on the step.
    Decoded(DecodedImage),
    /// `[3, side, side]`: nothing is left to do.
    Preprocessed(Box<[u8]>),
}

/// A shard in memory.
#[derive(Debug)]
pub(super) struct CachedShard {
    pub(super) shard: Shard,
    /// By sample.
    pub(super) images: Vec<OnceLock<CachedImage>>,
    /// What the bytes of a picture are known by, by sample.
    pub(super) fingerprints: Vec<OnceLock<u64>>,
    /// The ids of the caption, by pair.
    pub(super) token_ids: Vec<OnceLock<Box<[u32]>>>,
}

/// The shards in memory, those used last.
#[derive(Debug)]
pub(super) struct ShardCache {
    dataset: Dataset,
    max_bytes: u64,
    slots: Mutex<CacheSlots>,
}

#[derive(Debug, Default)]
struct CacheSlots {
    clock: u64,
    by_shard: HashMap<u32, CacheSlot>,
}

#[derive(Debug)]
struct CacheSlot {
    last_used: u64,
    bytes: u64,
    shard: Arc<Mutex<Option<Arc<CachedShard>>>>,
}

impl ShardCache {
    /// Keeps at most `most_bytes` of shards, one at least.
    pub(super) fn new(dataset: Dataset, most_bytes: u64) -> Self {
        Self {
            dataset,
            max_bytes: most_bytes,
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
        let slot = self.touch_slot(number);
        let mut shard = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = shard.as_ref() {
            return Ok(loaded.clone());
        }

        let read = self.dataset.read_shard(number as usize)?;
        if let Some(damage) = &read.damage {
            tracing::warn!("{damage}");
        }

        let pictures = read.samples.iter().map(|_| OnceLock::new()).collect();
        let fingerprints = read.samples.iter().map(|_| OnceLock::new()).collect();
        let captions = read.pairs.iter().map(|_| OnceLock::new()).collect();
        let loaded = Arc::new(CachedShard {
            shard: read,
            images: pictures,
            fingerprints,
            token_ids: captions,
        });

        Ok(shard.insert(loaded).clone())
    }

    fn touch_slot(&self, number: u32) -> Arc<Mutex<Option<Arc<CachedShard>>>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.clock += 1;
        let used = slots.clock;
        let bytes = self.dataset.index().shards[number as usize].bytes;
        let slot = slots.by_shard.entry(number).or_insert_with(|| {
            let shard = Arc::default();
            CacheSlot {
                last_used: used,
                bytes,
                shard,
            }
        });

        slot.last_used = used;
        let shard = slot.shard.clone();
        slots.evict_lru(self.max_bytes);
        shard
    }
}

impl CacheSlots {
    /// Forgets the shards that were used longest ago. Whoever works on one keeps it until done.
    fn evict_lru(&mut self, most_bytes: u64) {
        let mut bytes: u64 = self.by_shard.values().map(|slot| slot.bytes).sum();
        while bytes > most_bytes && self.by_shard.len() > 1 {
            let oldest = self.by_shard.iter().min_by_key(|(_, slot)| slot.last_used);
            let Some((&number, slot)) = oldest else {
                return;
            };

            bytes -= slot.bytes;
            self.by_shard.remove(&number);
        }
    }
}
