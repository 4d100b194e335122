//! Trains one stage, on all ranks of this process: the loop, and nothing else. What a step, a report
//! or a checkpoint is, is defined in the modules below.

mod batch_planner;
mod checkpoint_saver;
mod config_validation;
mod finalize;
mod meter;
mod rank_sync;
mod resolved_training;
mod resume;
mod run_progress;
mod setup;
mod stepper;
mod teacher;
mod training_run;
mod validator;
mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use cnclip_compute::collective::Collective;
use cnclip_compute::tensor::Memory;
use cnclip_crds::exit_code::TrainerExit;
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_distributed::{Communicator, JoinRequest, LocalRanks};

use crate::device_placement;
use crate::error::{Error, Result};
use crate::progress::{Reporter, logging};
use crate::stop::StopSignal;
use crate::thread_dump::dump_threads;
use crate::threads::spawn_named;
use training_run::TrainingRun;
use watchdog::{StuckRun, WatchGuard};

/// Opens the memory in which a rank computes.
pub type OpenMemory<'a> = &'a (dyn Fn(usize) -> Result<Memory> + Sync);

/// Trains a stage to its last step, from its newest checkpoint on if there is one, together with the
/// other workers of the run.
///
/// # Errors
/// If something cannot be used, a worker is lost, or the run was asked to stop: then its state is saved.
///
/// # Guarantees
/// A run that was stopped or killed and started again takes the same steps as one that was not; so does,
/// but for rounding, a run of another number of ranks.
pub fn train_stage(config: &TrainConfig, reporter: &Reporter, stop: impl StopSignal) -> Result<()> {
    train_stage_with_memory(config, reporter, stop, &|rank| {
        device_placement::open_memory(&config.world, rank)
    })
}

/// Trains a stage in memory that `open_memory` gives each rank. It is called again after a lack of memory.
///
/// # Errors
/// Those of [`train_stage`], and of `open_memory`.
pub fn train_stage_with_memory(
    config: &TrainConfig,
    reporter: &Reporter,
    stop: impl StopSignal,
    open_memory: OpenMemory<'_>,
) -> Result<()> {
    config_validation::validate_config(config)?;
    // Workers must be started with the same configuration, but each may listen on a port of its own.
    let comparable = TrainConfig {
        listen: None,
        ..config.clone()
    };

    let request = JoinRequest::new(&config.run, &comparable)?;
    let local_ranks = LocalRanks::join_workers(&config.world, &request)?;
    let first_rank = |communicator: Arc<Communicator>| {
        train_rank(
            config,
            &communicator,
            open_memory,
            reporter,
            reporter,
            &stop,
        )
    };

    // One rank of a process reports and takes its signals; `sync_stop` passes a stop on to the others.
    local_ranks.run_ranks(first_rank, |communicator| {
        let silent = Reporter::without_outputs(config.run.clone());
        train_rank(
            config,
            &communicator,
            open_memory,
            &silent,
            reporter,
            &|| false,
        )
    })
}

/// The stage as one rank sees it. A rank that hangs ends its process, with a report of that.
fn train_rank(
    config: &TrainConfig,
    communicator: &Arc<Communicator>,
    open_memory: OpenMemory<'_>,
    reporter: &Reporter,
    process_reporter: &Reporter,
    stop: &dyn StopSignal,
) -> Result<()> {
    let rank = communicator.rank();
    let mut run = setup::set_up_run(config, communicator, || open_memory(rank))?;
    stop.begin_saving_state();
    run.report_start(reporter);

    let watchdog = run.watchdog();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Some(stuck) = watchdog.watch(communicator) {
                end_stuck_process(&stuck, communicator, process_reporter);
            }
        });

        let _guard = WatchGuard(&watchdog);
        match take_steps(&mut run, reporter, stop) {
            Ok(()) => run.finish_run(reporter),
            Err(error) => {
                run.save_before_exit(&error, reporter);
                Err(error)
            }
        }
    })
}

/// Ends a process in which a rank makes no progress, and with it the run: its main thread cannot.
fn end_stuck_process(stuck: &StuckRun, communicator: &Communicator, reporter: &Reporter) {
    end_process_later();
    let rank = communicator.rank();
    let message = format!(
        "rank {rank} made {stuck}. The log has the stacks of all threads; run the same command again: it resumes \
         from the newest checkpoint"
    );

    tracing::error!("{message}\n{}", dump_threads());
    communicator.announce_failure(&message);

    let error = Error::Hang(message);
    let exit_code = error.exit_code().exit_code().into();
    reporter.report_failure(&error);
    logging::flush_process_log();
    reporter.write_last_message(|| std::process::exit(exit_code));
}

/// Ends the process whatever happens: what reports a hang may hang too.
fn end_process_later() {
    const LAST_MOMENT: Duration = Duration::from_secs(20);
    let exit_code: i32 = TrainerExit::Hang.exit_code().into();
    let end = move || {
        std::thread::sleep(LAST_MOMENT);
        // SAFETY: touches no memory. Ends the process without the handlers of `exit`, which may wait for locks.
        unsafe { libc::_exit(exit_code) }
    };

    // Without the thread, the report itself is what ends the process.
    let _ = spawn_named("end", end);
}

/// Trains to the last step of the stage.
fn take_steps(run: &mut TrainingRun, reporter: &Reporter, stop: &dyn StopSignal) -> Result<()> {
    // The scores decide which checkpoint a stage ends with: one that is missing could be the best.
    if run.owes_validation() {
        run.run_validation(reporter, stop)?;
        run.save_checkpoint(reporter)?;
    }

    while !run.is_done() {
        run.take_step(stop)?;
        // ---- below this line nothing changes the model ----
        let stopping = run.sync_stop(stop.is_requested())?;

        if run.is_report_due() || stopping {
            run.report_progress(reporter);
        }

        // A validation may outlast the pod's termination grace period: a stop leaves it to the next attempt.
        let validated = run.is_validation_due() && !stopping;
        if validated {
            run.run_validation(reporter, stop)?;
        } else if run.is_validation_due() {
            run.postpone_validation();
        }

        // The stage ends with its best checkpoint, so each validation is followed by one, whose
        // manifest carries the score: a recall without its weights could not be chosen.
        if stopping {
            run.save_last_checkpoint(reporter)?;
        } else if run.is_done() || validated {
            run.save_checkpoint(reporter)?;
        } else if run.is_checkpoint_due() {
            run.save_checkpoint_if_idle(reporter)?;
        }

        run.poll_checkpoint(reporter)?;
        // A stop that arrives with the last step interrupts nothing, unless its validation is left.
        if stopping && (!run.is_done() || run.owes_validation()) {
            run.finish_checkpoint(reporter)?;
            return Err(Error::Interrupted {
                step: run.completed_steps(),
            });
        }
    }

    Ok(())
}
