//! Keeps the shards that are in use in memory, with what was made of their pictures and captions.
//! Decides what to let go of; never which pair comes next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::decode::Picture;
use crate::error::Result;
use crate::shard::{Dataset, Shard};

/// A picture after the part of its preparation that is the same every time.
#[derive(Debug)]
pub(super) enum Ready {
    /// Decoded: the rest depends on the step.
    Picture(Picture),
    /// `[3, side, side]`: nothing is left to do.
    Planes(Box<[u8]>),
}

/// A shard in memory.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) shard: Shard,
    /// By sample.
    pub(super) pictures: Vec<OnceLock<Ready>>,
    /// What the bytes of a picture are known by, by sample.
    pub(super) fingerprints: Vec<OnceLock<u64>>,
    /// The ids of the caption, by pair.
    pub(super) captions: Vec<OnceLock<Box<[u32]>>>,
}

/// The shards in memory, those used last.
#[derive(Debug)]
pub(super) struct Shelf {
    dataset: Dataset,
    most_bytes: u64,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    clock: u64,
    by_shard: HashMap<u32, Slot>,
}

#[derive(Debug)]
struct Slot {
    used: u64,
    bytes: u64,
    shard: Arc<Mutex<Option<Arc<Loaded>>>>,
}

impl Shelf {
    /// Keeps at most `most_bytes` of shards, one at least.
    pub(super) fn new(dataset: Dataset, most_bytes: u64) -> Self {
        Self {
            dataset,
            most_bytes,
            slots: Mutex::default(),
        }
    }

    /// Whether the whole data set fits, so that nothing is ever read twice.
    pub(super) fn holds_all(&self) -> bool {
        self.dataset
            .index()
            .shards
            .iter()
            .map(|part| part.bytes)
            .sum::<u64>()
            <= self.most_bytes
    }

    /// A shard, read if it is not here. Threads that ask for the same one wait for one reading.
    ///
    /// # Errors
    /// If the store fails; the next caller tries again.
    pub(super) fn shard(&self, number: u32) -> Result<Arc<Loaded>> {
        let slot = self.slot(number);
        let mut shard = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = shard.as_ref() {
            return Ok(loaded.clone());
        }

        let read = self.dataset.shard(number as usize)?;
        if let Some(damage) = &read.damage {
            tracing::warn!("{damage}");
        }

        let pictures = read.samples.iter().map(|_| OnceLock::new()).collect();
        let fingerprints = read.samples.iter().map(|_| OnceLock::new()).collect();
        let captions = read.pairs.iter().map(|_| OnceLock::new()).collect();
        let loaded = Arc::new(Loaded {
            shard: read,
            pictures,
            fingerprints,
            captions,
        });

        Ok(shard.insert(loaded).clone())
    }

    fn slot(&self, number: u32) -> Arc<Mutex<Option<Arc<Loaded>>>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.clock += 1;
        let used = slots.clock;
        let bytes = self.dataset.index().shards[number as usize].bytes;
        let slot = slots.by_shard.entry(number).or_insert_with(|| {
            let shard = Arc::default();
            Slot { used, bytes, shard }
        });

        slot.used = used;
        let shard = slot.shard.clone();
        slots.let_go(self.most_bytes);
        shard
    }
}

impl Slots {
    /// Forgets the shards that were used longest ago. Whoever works on one keeps it until done.
    fn let_go(&mut self, most_bytes: u64) {
        let mut bytes: u64 = self.by_shard.values().map(|slot| slot.bytes).sum();
        while bytes > most_bytes && self.by_shard.len() > 1 {
            let oldest = self.by_shard.iter().min_by_key(|(_, slot)| slot.used);
            let Some((&number, slot)) = oldest else {
                return;
            };

            bytes -= slot.bytes;
            self.by_shard.remove(&number);
        }
    }
}
