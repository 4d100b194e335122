//! Where a rank computes: in this machine's memory, or on a card, and on which.

use cnclip_crds::stage::{Accelerator, Precision};
use cnclip_crds::trainer_config::DistributedConfig;

use crate::error::{Error, Result};
use cnclip_compute::cuda;
use cnclip_compute::tensor::Memory;

/// Where a rank must compute: on the card of its number in its worker, or in this machine's memory.
///
/// # Errors
/// If the card cannot be used.
pub fn open_memory(world: &DistributedConfig, rank: usize) -> Result<Memory> {
    if world.accelerator != Accelerator::Nvidia {
        return Ok(Memory::Host);
    }

    let card = device_index(world, rank);
    // A card that cannot be used may be another node's in the next attempt; a program without CUDA stays one.
    let device = cuda::open_device(card).map_err(|fault| match cuda::BUILT_WITH_CUDA {
        true => Error::Device(fault),
        false => Error::Config(format!(
            "world.accelerator is Nvidia, but {fault}. Set spec.workers.accelerator to None to compute on CPUs."
        )),
    })?;

    tracing::info!(card, name = device.name(), "computing on a card");
    Ok(Memory::Device(device, world.precision))
}

/// The same in fp32; without an accelerator, the card of its number all the same where there is one.
///
/// # Errors
/// Those of [`open_memory`].
pub fn open_fp32_memory(world: &DistributedConfig, rank: usize) -> Result<Memory> {
    let exact = DistributedConfig {
        precision: Precision::Fp32,
        ..world.clone()
    };

    if world.accelerator == Accelerator::Nvidia {
        return open_memory(&exact, rank);
    }

    open_memory(
        &DistributedConfig {
            accelerator: Accelerator::Nvidia,
            ..exact
        },
        rank,
    )
    .or_else(|fault| {
        tracing::debug!(%fault, "computing in this machine's memory");
        Ok(Memory::Host)
    })
}

/// The number of a rank's card, as its worker counts them.
fn device_index(world: &DistributedConfig, rank: usize) -> usize {
    rank % world.devices.max(1) as usize
}
