//! A data set that ranks share out: who encodes what, and what each found of its share.

use std::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use cnclip_compute::collective::Collective;
use cnclip_distributed::Communicator;

/// A rank's share of so many things, of which the shares need not be equal.
pub(super) fn rank_range(things: usize, world: &Communicator) -> Range<usize> {
    let rank = world.rank();
    let count = world.world_size();
    things * rank / count..things * (rank + 1) / count
}

/// What every rank found, in their order.
///
/// # Errors
/// If a rank is lost.
pub(super) fn all_gather_json<T: Serialize + DeserializeOwned>(
    own: &T,
    world: &Communicator,
) -> Result<Vec<T>> {
    let fault = |error| Error::Bug(format!("what was found cannot be told as JSON: {error}"));
    let own = serde_json::to_vec(own).map_err(fault)?;
    let all = world.all_gather_varlen(&own)?;
    all.iter()
        .map(|found| serde_json::from_slice(found).map_err(fault))
        .collect()
}
