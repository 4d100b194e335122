//! A data set that ranks share out: who encodes what, and what each found of its share.

use std::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use cnclip_compute::collective::Ranks;
use cnclip_distributed::World;

/// A rank's share of so many things, of which the shares need not be equal.
pub(super) fn share(things: usize, world: &World) -> Range<usize> {
    let rank = world.rank();
    let count = world.count();
    things * rank / count..things * (rank + 1) / count
}

/// What every rank found, in their order.
///
/// # Errors
/// If a rank is lost.
pub(super) fn exchange<T: Serialize + DeserializeOwned>(own: &T, world: &World) -> Result<Vec<T>> {
    let fault = |error| Error::Bug(format!("what was found cannot be told as JSON: {error}"));
    let own = serde_json::to_vec(own).map_err(fault)?;
    let all = world.exchange(&own)?;
    all.iter()
        .map(|found| serde_json::from_slice(found).map_err(fault))
        .collect()
}
