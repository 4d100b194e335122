//! Weights in several files, as Hugging Face's index of them says which tensor lies in which.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::tensor_file::{self, StoredTensorMap};
use crate::error::{Error, Result};
use cnclip_data::json::parse_json;
use cnclip_data::store::Store;

/// How the name of an index ends.
pub const INDEX_SUFFIX: &str = ".index.json";

#[derive(Deserialize)]
struct WeightsIndex {
    weight_map: BTreeMap<String, String>,
}

impl WeightsIndex {
    fn parse(uri: &str, bytes: &[u8]) -> Result<Self> {
        parse_json(bytes)
            .map_err(|error| Error::Data(format!("{uri} is no index of weights: {error}")))
    }

    fn shard_names(&self) -> BTreeSet<&String> {
        self.weight_map.values().collect()
    }
}

/// The files that an index names.
///
/// # Errors
/// If the bytes are none.
pub fn list_shard_files(uri: &str, bytes: &[u8]) -> Result<Vec<String>> {
    Ok(WeightsIndex::parse(uri, bytes)?
        .shard_names()
        .into_iter()
        .cloned()
        .collect())
}

/// The tensors of all files that an index names.
///
/// # Errors
/// If it is none; if a file or a tensor that it promises is not there.
pub(super) fn list_sharded_tensors(store: &Store, name: &str) -> Result<StoredTensorMap> {
    let uri = store.object_uri(name);
    let index = WeightsIndex::parse(&uri, &store.get(name)?)?;
    let mut tensors = StoredTensorMap::new();

    for shard in index.shard_names() {
        if store.object_size(shard)?.is_none() {
            return Err(Error::Data(format!(
                "{uri} names {shard}, which is not there. Put it next to the index."
            )));
        }

        // Names decide, not the index: a shard may hold more than the index lists, and that is no error.
        tensors.extend(tensor_file::list_tensors(store, shard, None)?.tensors);
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
