//! Trains one stage, on all ranks of this process: the loop, and nothing else. What a step, a report
//! or a checkpoint is, is said in the rooms beside it.

mod batch_planner;
mod config_validation;
mod finalize;
mod meter;
mod rank_sync;
mod resume;
mod setup;
mod training_run;

use std::sync::Arc;

use cnclip_crds::trainer_config::TrainConfig;

use crate::device_placement;
use crate::error::{Error, Result};
use crate::progress::Reporter;
use cnclip_compute::collective::Collective;
use cnclip_compute::tensor::Memory;
use cnclip_distributed::{Communicator, JoinRequest, LocalRanks};

/// Trains a stage to its last step, from its newest checkpoint on if there is one, together with the
/// other workers of the run. `stop` is asked after every step.
///
/// # Errors
/// If something cannot be used, a worker is lost, or the run was asked to stop: then its state is saved.
///
/// # Guarantees
/// A run that was stopped or killed and started again takes the same steps as one that was not; so does,
/// but for rounding, a run of another number of ranks.
pub fn train_stage(
    config: &TrainConfig,
    reporter: &Reporter,
    stop: impl Fn() -> bool,
) -> Result<()> {
    train_stage_with_memory(config, reporter, stop, &|rank| {
        device_placement::open_memory(&config.world, rank)
    })
}

/// The same, where `memory` says where each rank computes; it is asked again after a lack of memory.
///
/// # Errors
/// Those of [`train_stage`], and of `memory`.
pub fn train_stage_with_memory(
    config: &TrainConfig,
    reporter: &Reporter,
    stop: impl Fn() -> bool,
    memory: &(dyn Fn(usize) -> Result<Memory> + Sync),
) -> Result<()> {
    config_validation::validate_config(config)?;
    let claim = JoinRequest::new(
        &config.run,
        &TrainConfig {
            listen: None,
            ..config.clone()
        },
    )?;

    let crew = LocalRanks::join_workers(&config.world, &claim, &stop)?;
    let first = |world: Arc<Communicator>| train_rank(config, (memory, &world), reporter, &stop);
    let silent = || Reporter::without_outputs(config.run.clone());
    crew.run_ranks(first, |world| {
        train_rank(config, (memory, &world), &silent(), &|| false)
    })
}

/// The stage as one rank sees it.
fn train_rank(
    config: &TrainConfig,
    (memory, world): (
        &(dyn Fn(usize) -> Result<Memory> + Sync),
        &Arc<Communicator>,
    ),
    reporter: &Reporter,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    let mut run = setup::set_up_run(config, world, || memory(world.rank()))?;
    run.report_start(reporter);
    while !run.is_done() {
        run.take_step()?;
        // ---- below this line nothing changes the model ----
        let stopping = run.sync_stop(stop())?;

        if run.is_report_due() || stopping {
            run.report_progress(reporter);
        }

        let validated = run.is_validation_due() && !stopping;
        if validated {
            run.run_validation(reporter)?;
        }

        if run.is_checkpoint_due() || validated || stopping {
            run.save_checkpoint(reporter)?;
        }

        run.poll_checkpoint(reporter)?;
        if stopping && !run.is_done() {
            run.finish_checkpoint(reporter)?;
            return Err(Error::Interrupted {
                step: run.completed_steps(),
            });
        }
    }

    run.finish_run(reporter)
}
