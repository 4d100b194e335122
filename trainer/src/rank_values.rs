//! Values that rank 0 finds out and sends to the other ranks.

use cnclip_compute::params::Params;
use cnclip_distributed::Communicator;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The value of rank 0; those of other ranks are ignored.
///
/// # Errors
/// If it has no form in JSON, or a rank has failed.
pub(crate) fn broadcast_json<T: Serialize + DeserializeOwned>(
    communicator: &Communicator,
    value: &T,
) -> Result<T> {
    let unsent = |error| Error::Bug(format!("a value cannot be sent to other ranks: {error}"));
    let json = serde_json::to_vec(value).map_err(unsent)?;
    let json = communicator.broadcast(&json)?;
    serde_json::from_slice(&json).map_err(unsent)
}

/// Replaces the weights and running statistics of a model by those of rank 0.
///
/// # Errors
/// If a rank has failed.
pub(crate) fn broadcast_params(communicator: &Communicator, params: &mut Params) -> Result<()> {
    communicator.broadcast_tensor(params.values.view_mut())?;
    communicator.broadcast_tensor(params.buffers.view_mut())?;
    Ok(())
}
