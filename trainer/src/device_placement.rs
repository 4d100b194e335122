//! Where a rank computes: in host memory, or on a GPU, and on which.

use cnclip_crds::stage::{Accelerator, Precision};
use cnclip_crds::trainer_config::DistributedConfig;

use crate::error::{Error, Result};
use cnclip_compute::cuda;
use cnclip_compute::tensor::Memory;

/// Opens the memory in which a rank computes: that of the GPU of its number in its worker, or the host's.
///
/// # Errors
/// If the GPU cannot be used.
pub fn open_memory(world: &DistributedConfig, rank: usize) -> Result<Memory> {
    if world.accelerator != Accelerator::Nvidia {
        return Ok(Memory::Host);
    }

    let index = device_index(world, rank);
    // A GPU that fails may be another node's in the next attempt, so that is an error to retry; a program built
    // without CUDA stays one, so that is a configuration error.
    let device = cuda::open_device(index).map_err(|fault| match cuda::BUILT_WITH_CUDA {
        true => Error::Device(fault),
        false => Error::Config(format!(
            "world.accelerator is Nvidia, but {fault}. Set spec.workers.accelerator to None to compute on CPUs."
        )),
    })?;

    tracing::info!(device = index, name = device.name(), "computing on a GPU");
    Ok(Memory::Device(device, world.precision))
}

/// The same in fp32, for evaluations.
///
/// # Errors
/// Those of [`open_memory`].
pub fn open_fp32_memory(world: &DistributedConfig, rank: usize) -> Result<Memory> {
    let fp32 = DistributedConfig {
        precision: Precision::Fp32,
        ..world.clone()
    };

    open_memory(&fp32, rank)
}

/// The index of a rank's GPU among those of its worker.
fn device_index(world: &DistributedConfig, rank: usize) -> usize {
    // Ranks are numbered worker by worker, so the remainder is the place in the worker; the
    // container runtime numbers a pod's GPUs from 0.
    rank % world.devices.max(1) as usize
}
