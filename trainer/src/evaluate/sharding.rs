//! Gathers what each rank found in its share of a data set.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use cnclip_distributed::Communicator;

/// The values of all ranks, in the order of ranks.
///
/// # Errors
/// If a rank is lost.
pub(super) fn all_gather_json<T: Serialize + DeserializeOwned>(
    own: &T,
    world: &Communicator,
) -> Result<Vec<T>> {
    let fault = |error| {
        Error::Bug(format!(
            "the values of a rank cannot be exchanged as JSON: {error}"
        ))
    };
    // JSON, because ids are strings or numbers; features, which are much larger, are gathered as
    // fp32.
    let own = serde_json::to_vec(own).map_err(fault)?;
    let all = world.all_gather_varlen(&own)?;
    all.iter()
        .map(|found| serde_json::from_slice(found).map_err(fault))
        .collect()
}
