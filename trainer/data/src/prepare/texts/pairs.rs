//! The texts in the reference's database of pairs: a pickled `(image_id, text_id, text)` under each
//! running number.

use std::collections::BTreeMap;
use std::path::Path;

use serde_pickle::DeOptions;

use super::Line;
use crate::error::{Error, Result};
use crate::prepare::lmdb::Lmdb;
use crate::shard::Id;

/// The key under which the reference keeps how many pairs there are.
const NUM_SAMPLES: &str = "num_samples";

type Pair = (Id, Id, String);

/// Every text once, with all its images, and the number of the pair where it was found first.
pub(super) fn read(path: &Path) -> Result<Vec<(u64, Line)>> {
    let database = Lmdb::open(path, NUM_SAMPLES)?;
    let mut texts: BTreeMap<Id, (u64, Line)> = BTreeMap::new();
    for number in 0..database.count {
        let (image_id, text_id, text) = pair(&database, number)?;
        match texts.get_mut(&text_id) {
            None => {
                let line = Line {
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

fn pair(database: &Lmdb, number: u64) -> Result<Pair> {
    // A pickle may call anything in Python; this reader calls nothing and refuses what would.
    let read = |bytes: &[u8]| Some(serde_pickle::from_slice::<Pair>(bytes, DeOptions::new()));
    let found = database.get(&number.to_string(), read)?;
    let found = found.ok_or_else(|| database.damaged(&format!("it lacks pair {number}")))?;

    found.map_err(|error| {
        Error::Data(format!(
            "{} key {number} is no pickled (image_id, text_id, text): {error}. Build the database \
             again.",
            database.name()
        ))
    })
}
