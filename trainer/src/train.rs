//! Trains one stage, on all ranks of this process: the loop, and nothing else. What a step, a report
//! or a checkpoint is, is said in the rooms beside it.

mod check;
mod ending;
mod fit;
mod meter;
mod resume;
mod run;
mod setup;
mod together;

use std::sync::Arc;

use cnclip_crds::run_config::{TrainConfig, WorldConfig};
use cnclip_crds::stage::Accelerator;

use crate::array::Memory;
use crate::cuda;
use crate::data::shard::sha256;
use crate::error::{Error, Result};
use crate::ops::ranks::Ranks;
use crate::report::Reporter;
use crate::world::{Claim, Crew, World};

/// Trains a stage to its last step, from its newest checkpoint on if there is one, together with the
/// other workers of the run. `stop` is asked after every step.
///
/// # Errors
/// If something cannot be used, a worker is lost, or the run was asked to stop: then its state is saved.
///
/// # Guarantees
/// A run that was stopped or killed and started again takes the same steps as one that was not; so does,
/// but for rounding, a run of another number of ranks.
pub fn train(config: &TrainConfig, reporter: &Reporter, stop: impl Fn() -> bool) -> Result<()> {
    train_within(config, reporter, stop, &|card| memory(&config.world, card))
}

/// The same, where `memory` says where each rank of this process computes.
///
/// # Errors
/// Those of [`train`], and of `memory`.
pub fn train_within(
    config: &TrainConfig,
    reporter: &Reporter,
    stop: impl Fn() -> bool,
    memory: &(dyn Fn(usize) -> Result<Memory> + Sync),
) -> Result<()> {
    check::check(config)?;
    let claim = Claim { run: &config.run, config: digest(config)? };
    let crew = Crew::join(&config.world, &claim, &stop)?;
    let memory = |world: &World| memory(world.rank() % config.world.devices as usize);
    let first = |world: Arc<World>| stage(config, (memory(&world)?, world), reporter, &stop);
    let silent = || Reporter::silent(config.run.clone());
    crew.work(first, |world| stage(config, (memory(&world)?, world), &silent(), &|| false))
}

/// Where a rank of this process computes: in this machine's memory, or on the card of its number.
fn memory(world: &WorldConfig, card: usize) -> Result<Memory> {
    if world.accelerator != Accelerator::Nvidia {
        return Ok(Memory::Host);
    }
    // A card that cannot be used may be another node's in the next attempt; a program without CUDA stays one.
    let device = cuda::open(card).map_err(|fault| match cuda::BUILT {
        true => Error::Device(fault),
        false => Error::Config(format!(
            "world.accelerator is Nvidia, but {fault}. Set spec.workers.accelerator to None to train on CPUs."
        )),
    })?;
    tracing::info!(card, name = device.name(), "computing on a card");
    Ok(Memory::Device(device, world.precision))
}

/// What workers must have in common.
fn digest(config: &TrainConfig) -> Result<String> {
    let common = serde_json::to_vec(&TrainConfig { listen: None, ..config.clone() });
    let common = common.map_err(|error| {
        Error::Bug(format!("a configuration cannot be written as JSON: {error}"))
    })?;
    Ok(sha256(&common))
}

/// The stage as one rank sees it.
fn stage(
    config: &TrainConfig,
    (memory, world): (Memory, Arc<World>),
    reporter: &Reporter,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    if let Some(device) = memory.device() {
        world.connect(device)?;
    }
    let mut run = setup::set_up(config, world, &memory)?;
    run.tell_start(reporter);
    while !run.done() {
        run.take_step()?;
        // ---- below this line nothing changes the model ----
        let stopping = run.agree(stop())?;
        if run.report_due() || stopping {
            run.report(reporter);
        }
        let validated = run.validation_due() && !stopping;
        if validated {
            run.validate(reporter)?;
        }
        if run.checkpoint_due() || validated || stopping {
            run.save(reporter)?;
        }
        run.look_after_checkpoint(reporter)?;
        if stopping && !run.done() {
            run.finish_saving(reporter)?;
            return Err(Error::Interrupted { step: run.step() });
        }
    }
    run.end(reporter)
}
