//! The texts in the reference's database of pairs: a pickled `(image_id, text_id, text)` under each
//! running number.

use std::collections::BTreeMap;
use std::path::Path;

use serde_pickle::DeOptions;

use super::TextRecord;
use crate::error::{Error, Result};
use crate::prepare::lmdb::LmdbReader;
use crate::shard::ItemId;

/// The key under which the reference keeps how many pairs there are.
const NUM_SAMPLES_KEY: &str = "num_samples";

type PickledPair = (ItemId, ItemId, String);

/// Every text once, with all its images, and the number of the pair where it was found first.
pub(super) fn read_text_records(path: &Path) -> Result<Vec<(u64, TextRecord)>> {
    let database = LmdbReader::open(path, NUM_SAMPLES_KEY)?;
    let mut texts: BTreeMap<ItemId, (u64, TextRecord)> = BTreeMap::new();
    for number in 0..database.count {
        let (image_id, text_id, text) = read_pair(&database, number)?;
        match texts.get_mut(&text_id) {
            None => {
                let line = TextRecord {
                    text_id: text_id.clone(),
                    text,
                    image_ids: vec![image_id],
                };

                texts.insert(text_id, (number, line));
            }
            Some((_, line)) if line.text == text => line.image_ids.push(image_id),
            Some((first, _)) => {
                return Err(Error::Data(format!(
                    "{} key {number}: text {text_id} says something else than in key {first}. Give \
                     each text its own text_id, and build the database again.",
                    database.name()
                )));
            }
        }
    }

    Ok(texts.into_values().collect())
}

fn read_pair(database: &LmdbReader, number: u64) -> Result<PickledPair> {
    // A pickle may call anything in Python; this reader calls nothing and refuses what would.
    let read = |bytes: &[u8]| {
        Some(serde_pickle::from_slice::<PickledPair>(
            bytes,
            DeOptions::new(),
        ))
    };
    let found = database.get_with(&number.to_string(), read)?;
    let found = found.ok_or_else(|| database.damaged_error(&format!("it lacks pair {number}")))?;

    found.map_err(|error| {
        Error::Data(format!(
            "{} key {number} is no pickled (image_id, text_id, text): {error}. Build the database \
             again.",
            database.name()
        ))
    })
}
