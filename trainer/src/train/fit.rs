//! Fits a stage into the memory there is, before anything of size is reserved, and says how.

use cnclip_crds::report::MemoryReport;
use cnclip_crds::run_config::TrainConfig;
use cnclip_crds::stage::MicroBatch;

use crate::array::Memory;
use crate::error::Result;
use crate::memory::{Load, Needs, Way, choose, limit};

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
    };
    let fitted = TrainConfig {
        micro_batch_size: Some(MicroBatch::Pairs(plan.micro_batch_size)),
        gradient_checkpointing: Some(plan.gradient_checkpointing),
        ..load.config.clone()
    };
    Ok((fitted, plan))
}

fn tell(Way { micro_batch, recompute }: Way, needs: &Needs, available: Option<u64>) {
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
