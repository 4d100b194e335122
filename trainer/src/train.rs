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

use cnclip_crds::run_config::TrainConfig;

use crate::error::{Error, Result};
use crate::place;
use crate::report::Reporter;
use cnclip_compute::collective::Ranks;
use cnclip_compute::tensor::Memory;
use cnclip_distributed::{Claim, Crew, World};

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
    train_within(config, reporter, stop, &|rank| {
        place::of(&config.world, rank)
    })
}

/// The same, where `memory` says where each rank computes; it is asked again after a lack of memory.
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
    let claim = Claim::new(
        &config.run,
        &TrainConfig {
            listen: None,
            ..config.clone()
        },
    )?;

    let crew = Crew::join(&config.world, &claim, &stop)?;
    let first = |world: Arc<World>| stage(config, (memory, &world), reporter, &stop);
    let silent = || Reporter::silent(config.run.clone());
    crew.work(first, |world| {
        stage(config, (memory, &world), &silent(), &|| false)
    })
}

/// The stage as one rank sees it.
fn stage(
    config: &TrainConfig,
    (memory, world): (&(dyn Fn(usize) -> Result<Memory> + Sync), &Arc<World>),
    reporter: &Reporter,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    let mut run = setup::set_up(config, world, || memory(world.rank()))?;
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
