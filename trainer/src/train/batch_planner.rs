//! Fits a stage into the memory there is, before anything of size is reserved, and says how.

use cnclip_crds::report::MemoryReport;
use cnclip_crds::stage::MicroBatch;
use cnclip_crds::trainer_config::TrainConfig;

use crate::error::Result;
use crate::memory_limit as limit;
use cnclip_compute::collective::Collective;
use cnclip_compute::device::DeviceError;
use cnclip_compute::tensor::Memory;
use cnclip_distributed::Communicator;
use cnclip_nn::memory::{BatchPlan, MemoryEstimate, MemoryInputs, choose_batch_plan};

/// The configuration with what was left to the trainer decided, and the plan behind it.
///
/// # Errors
/// If what was asked for does not fit, or nothing does.
pub(super) fn plan_batch(
    load: &MemoryInputs<'_>,
    memory: &Memory,
) -> Result<(TrainConfig, MemoryReport)> {
    let available = match memory.device() {
        Some(device) => Some(device.memory_info()?.0),
        // Ranks of one process live in the same memory.
        None => {
            limit::available_memory().map(|bytes| bytes / load.config.world.devices.max(1) as u64)
        }
    };

    let (way, needs) = choose_batch_plan(load, available)?;
    log_memory_plan(way, &needs, available);
    let plan = MemoryReport {
        micro_batch_size: way.micro_batch as i32,
        gradient_checkpointing: way.recompute,
        needed: needs.total_bytes() as i64,
        available: available.map_or(0, |bytes| bytes as i64),
        halved: load.config.halve_micro_batch,
    };

    let fitted = TrainConfig {
        micro_batch_size: Some(MicroBatch::Pairs(plan.micro_batch_size)),
        gradient_checkpointing: Some(plan.gradient_checkpointing),
        ..load.config.clone()
    };

    Ok((fitted, plan))
}

/// Whether there is memory for what was reserved, on all ranks; `false` where there is not, and the stage is
/// to be set up again with half as many pairs at once.
///
/// # Errors
/// If a device has too little and nothing is left to try, if it does not work, or a rank is lost.
pub(super) fn memory_suffices(
    config: &TrainConfig,
    memory: &Memory,
    world: &Communicator,
) -> Result<bool> {
    let lack = match memory.synchronize() {
        Err(fault @ DeviceError::OutOfMemory { .. }) => Some(fault),
        checked => checked.map(|()| None)?,
    };

    let mut lacks = vec![0_u64; world.world_size()];
    lacks[world.rank()] = lack.is_some().into();
    world.all_gather(&mut lacks);
    world.check_peers()?;
    let Some(rank) = lacks.iter().position(|lack| *lack > 0) else {
        return Ok(true);
    };

    if config.micro_batch_size != Some(MicroBatch::AUTO) || config.halve_micro_batch {
        // Whoever lacks nothing hears of it.
        return lack.map_or(Ok(true), |fault| Err(fault.into()));
    }

    let fault = lack.map_or_else(
        || format!("rank {rank} has too little memory"),
        |fault| fault.to_string(),
    );

    tracing::warn!(
        rank,
        "{fault}, though what was planned fits: half as many pairs are computed at once"
    );

    Ok(false)
}

fn log_memory_plan(
    BatchPlan {
        micro_batch,
        recompute,
    }: BatchPlan,
    needs: &MemoryEstimate,
    available: Option<u64>,
) {
    const MEBIBYTE: u64 = 1 << 20;
    let needed = needs.total_bytes().div_ceil(MEBIBYTE);
    let available = available.map(|bytes| bytes / MEBIBYTE);
    tracing::info!(
        micro_batch,
        gradient_checkpointing = recompute,
        needed_mib = needed,
        available_mib = available,
        "memory planned"
    );

    for (kind, bytes) in needs.bytes_by_kind() {
        tracing::debug!(kind, mib = bytes.div_ceil(MEBIBYTE), "memory planned");
    }
}
