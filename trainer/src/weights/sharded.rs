//! Weights in several files, as Hugging Face's index of them says which tensor lies in which.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::file::{self, Names};
use crate::error::{Error, Result};
use cnclip_data::store::Store;

/// How the name of an index ends.
pub const INDEX_ENDING: &str = ".index.json";

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn parse(uri: &str, bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::Data(format!("{uri} is no index of weights: {error}")))
    }

    fn shards(&self) -> BTreeSet<&String> {
        self.weight_map.values().collect()
    }
}

/// The files that an index names.
///
/// # Errors
/// If the bytes are none.
pub fn shards(uri: &str, bytes: &[u8]) -> Result<Vec<String>> {
    Ok(Index::parse(uri, bytes)?
        .shards()
        .into_iter()
        .cloned()
        .collect())
}

/// The tensors of all files that an index names.
///
/// # Errors
/// If it is none; if a file or a tensor that it promises is not there.
pub(super) fn list(store: &Store, name: &str) -> Result<Names> {
    let uri = store.uri_of(name);
    let index = Index::parse(&uri, &store.get(name)?)?;
    let mut tensors = Names::new();

    for shard in index.shards() {
        if store.size(shard)?.is_none() {
            return Err(Error::Data(format!(
                "{uri} names {shard}, which is not there. Put it beside the index."
            )));
        }

        tensors.extend(file::list(store, shard)?.tensors);
    }

    match index
        .weight_map
        .iter()
        .find(|(tensor, _)| !tensors.contains_key(*tensor))
    {
        None => Ok(tensors),
        Some((tensor, shard)) => Err(Error::Data(format!(
            "{uri} says that {tensor} lies in {shard}, which it does not."
        ))),
    }
}
