//! Decides how much of a batch is computed at once: before anything of size is reserved, by an estimate;
//! after, by whether the device had the memory. Reserves nothing.

use cnclip_crds::report::MemoryReport;
use cnclip_crds::stage::MicroBatch;
use cnclip_crds::trainer_config::TrainConfig;

use crate::error::Result;
use cnclip_compute::collective::Collective;
use cnclip_compute::device::DeviceError;
use cnclip_compute::tensor::Memory;
use cnclip_data::memory_limit;
use cnclip_distributed::Communicator;
use cnclip_nn::memory::{
    BatchPlan, CacheBudget, HostPlan, MemoryEstimate, MemoryInputs, choose_batch_plan,
    plan_host_memory,
};

/// How an attempt computes its batches.
#[derive(Debug)]
pub(super) struct PlannedBatch {
    /// The configuration with micro-batch and gradient checkpointing decided.
    pub(super) config: TrainConfig,
    /// What was decided, and from which numbers.
    pub(super) report: MemoryReport,
    /// What this rank may cache.
    pub(super) cache: CacheBudget,
}

impl PlannedBatch {
    /// Samples that this rank computes at once.
    pub(super) fn micro_batch_size(&self) -> usize {
        self.report.micro_batch_size as usize
    }
}

/// Whether what was reserved is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryCheck {
    Suffices,
    /// A rank has too little, and nobody asked for the micro-batch that was planned.
    HalveMicroBatch,
}

/// Plans how this rank computes its share of a batch.
///
/// # Errors
/// If the configured micro-batch does not fit, or none does; if host memory is too little for the ranks of this worker.
pub(super) fn plan_batch(inputs: &MemoryInputs<'_>, memory: &Memory) -> Result<PlannedBatch> {
    let available = available_bytes(inputs, memory)?;
    let (plan, estimate) = choose_batch_plan(inputs, available)?;
    log_memory_plan(plan, &estimate, available);
    let host_available = memory_limit::available_memory();
    let host = plan_host_memory(inputs, plan, host_available)?;
    log_host_plan(&host, host_available);

    let report = MemoryReport {
        micro_batch_size: plan.micro_batch as i32,
        gradient_checkpointing: plan.recompute,
        needed: estimate.total_bytes() as i64,
        available: available.map_or(0, |bytes| bytes as i64),
        halved: inputs.config.halve_micro_batch,
    };

    let config = TrainConfig {
        micro_batch_size: Some(MicroBatch::Pairs(report.micro_batch_size)),
        gradient_checkpointing: Some(report.gradient_checkpointing),
        ..inputs.config.clone()
    };

    Ok(PlannedBatch {
        config,
        report,
        cache: host.cache,
    })
}

/// Memory that this rank may take, where that is known.
fn available_bytes(inputs: &MemoryInputs<'_>, memory: &Memory) -> Result<Option<u64>> {
    if let Some(device) = memory.device() {
        // Free memory, not the device's total: its context and other processes hold a part already.
        return Ok(Some(device.memory_info()?.0));
    }

    // Ranks of one process share the memory of their container.
    let local_ranks = inputs.config.world.devices.max(1) as u64;
    Ok(memory_limit::available_memory().map(|bytes| bytes / local_ranks))
}

/// Whether there was memory for what was reserved, on all ranks. Ranks that have enough learn of one that
/// has not: all halve their micro-batch, or none.
///
/// # Errors
/// If this rank has too little and nothing is left to try, the device does not work, or a rank is lost.
pub(super) fn check_memory(
    config: &TrainConfig,
    memory: &Memory,
    communicator: &Communicator,
) -> Result<MemoryCheck> {
    // Allocations on a device fail late: the fault appears when the device is synchronized.
    let shortage = match memory.synchronize() {
        Err(fault @ DeviceError::OutOfMemory { .. }) => Some(fault),
        checked => checked.map(|()| None)?,
    };

    let mut shortages = vec![0_u64; communicator.world_size()];
    shortages[communicator.rank()] = shortage.is_some().into();
    communicator.all_gather(&mut shortages);
    communicator.check_peers()?;
    let Some(rank) = shortages.iter().position(|shortage| *shortage > 0) else {
        return Ok(MemoryCheck::Suffices);
    };

    // A micro-batch that the user set is never changed, and an automatic one is halved once only.
    let may_halve = config.micro_batch_size == Some(MicroBatch::AUTO) && !config.halve_micro_batch;
    if !may_halve {
        // The rank that lacks memory fails; the others go on until they learn that it is lost.
        return match shortage {
            Some(fault) => Err(fault.into()),
            None => Ok(MemoryCheck::Suffices),
        };
    }

    let fault = shortage.map_or_else(
        || format!("rank {rank} has too little memory"),
        |fault| fault.to_string(),
    );

    tracing::warn!(
        rank,
        "{fault}, though the planned micro-batch fits by the estimate: halving it"
    );

    Ok(MemoryCheck::HalveMicroBatch)
}

fn log_host_plan(host: &HostPlan, available: Option<u64>) {
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let parts = host.parts.iter();
    let parts: Vec<String> = parts
        .map(|(part, bytes)| format!("{part} {} MiB", mebibytes(*bytes)))
        .collect();

    tracing::info!(
        needed_mib = mebibytes(host.total_bytes()),
        available_mib = available.map(mebibytes),
        "host memory of this worker planned: {}",
        parts.join(", ")
    );
}

fn log_memory_plan(plan: BatchPlan, estimate: &MemoryEstimate, available: Option<u64>) {
    const MEBIBYTE: u64 = 1 << 20;
    let needed = estimate.total_bytes().div_ceil(MEBIBYTE);
    let available = available.map(|bytes| bytes / MEBIBYTE);
    tracing::info!(
        micro_batch = plan.micro_batch,
        gradient_checkpointing = plan.recompute,
        needed_mib = needed,
        available_mib = available,
        "memory planned"
    );

    for (kind, bytes) in estimate.bytes_by_kind() {
        tracing::debug!(kind, mib = bytes.div_ceil(MEBIBYTE), "memory planned");
    }
}
