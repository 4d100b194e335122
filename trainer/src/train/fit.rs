//! Fits a stage into the memory there is, before anything of size is reserved, and says how.

use cnclip_crds::report::MemoryReport;
use cnclip_crds::run_config::TrainConfig;
use cnclip_crds::stage::MicroBatch;

use crate::error::Result;
use crate::memory_limit as limit;
use cnclip_compute::collective::Ranks;
use cnclip_compute::device::Fault;
use cnclip_compute::tensor::Memory;
use cnclip_distributed::World;
use cnclip_nn::memory::{Load, Needs, Way, choose};

/// The configuration with what was left to the trainer decided, and the plan behind it.
///
/// # Errors
/// If what was asked for does not fit, or nothing does.
pub(super) fn fit(load: &Load<'_>, memory: &Memory) -> Result<(TrainConfig, MemoryReport)> {
    let available = match memory.device() {
        Some(device) => Some(device.memory()?.0),
        // Ranks of one process live in the same memory.
        None => limit::available().map(|bytes| bytes / load.config.world.devices.max(1) as u64),
    };

    let (way, needs) = choose(load, available)?;
    tell(way, &needs, available);
    let plan = MemoryReport {
        micro_batch_size: way.micro_batch as i32,
        gradient_checkpointing: way.recompute,
        needed: needs.total() as i64,
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
pub(super) fn suffices(config: &TrainConfig, memory: &Memory, world: &World) -> Result<bool> {
    let lack = match memory.check() {
        Err(fault @ Fault::OutOfMemory { .. }) => Some(fault),
        checked => checked.map(|()| None)?,
    };

    let mut lacks = vec![0_u64; world.count()];
    lacks[world.rank()] = lack.is_some().into();
    world.collect(&mut lacks);
    world.check()?;
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

fn tell(
    Way {
        micro_batch,
        recompute,
    }: Way,
    needs: &Needs,
    available: Option<u64>,
) {
    const MEBIBYTE: u64 = 1 << 20;
    let needed = needs.total().div_ceil(MEBIBYTE);
    let available = available.map(|bytes| bytes / MEBIBYTE);
    tracing::info!(
        micro_batch,
        gradient_checkpointing = recompute,
        needed_mib = needed,
        available_mib = available,
        "memory planned"
    );

    for (kind, bytes) in needs.kinds() {
        tracing::debug!(kind, mib = bytes.div_ceil(MEBIBYTE), "memory planned");
    }
}
