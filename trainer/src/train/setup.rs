//! From a configuration to a run that is ready for its next step. Takes no step.

use std::sync::Arc;

use cnclip_compute::tensor::Memory;
use cnclip_crds::trainer_config::TrainConfig;
use cnclip_distributed::Communicator;

use super::batch_planner::{MemoryCheck, PlannedBatch, check_memory, plan_batch};
use super::checkpoint_saver::CheckpointSaver;
use super::rank_sync::RankSync;
use super::resolved_training::ResolvedTraining;
use super::resume;
use super::run_progress::RunProgress;
use super::stepper::Stepper;
use super::training_run::TrainingRun;
use crate::error::{Error, Result};

/// A run that is ready to take its next step: the first, or the one after its newest checkpoint. Where a
/// device turns out to have less memory than was planned with, the micro-batch is halved once, if the
/// trainer may choose it.
///
/// # Errors
/// If the data, the weights or the artifact prefix cannot be used, other ranks see others, or memory does
/// not suffice.
pub(super) fn set_up_run(
    config: &TrainConfig,
    communicator: &Arc<Communicator>,
    open_memory: impl Fn() -> Result<Memory>,
) -> Result<TrainingRun> {
    let training = ResolvedTraining::resolve(config, communicator)?;

    // The second pass is reached only if `check_memory` asks to halve, which it does at most once.
    for halve_micro_batch in [config.halve_micro_batch, true] {
        let attempt = TrainConfig {
            halve_micro_batch,
            ..config.clone()
        };

        // A CUDA context is unusable after an allocation failed, so each attempt opens the device anew.
        let memory = open_memory()?;
        let plan = plan_batch(&training.memory_inputs(&attempt, &memory), &memory)?;
        let stepper = reserve_stepper(&training, &plan, &memory)?;

        match check_memory(&attempt, &memory, communicator)? {
            MemoryCheck::Suffices => return start_run(training, plan, stepper, &memory),
            MemoryCheck::HalveMicroBatch => {}
        }
    }

    Err(Error::Bug("a micro-batch was to be halved twice".into()))
}

/// Reserves everything of size, so that the check after it sees all that training will hold. A teacher
/// is loaded too: one that does not fit is an error before anything is written.
fn reserve_stepper(
    training: &ResolvedTraining<'_>,
    plan: &PlannedBatch,
    memory: &Memory,
) -> Result<Stepper> {
    let micro_batch = plan.micro_batch_size();
    let local_batch = training.local_batch_size();
    let distillation = training
        .teacher
        .as_ref()
        .map(|teacher| {
            teacher.build_distillation(
                memory,
                training.config,
                training.communicator,
                micro_batch,
                local_batch,
            )
        })
        .transpose()?;

    Ok(Stepper::new(
        memory,
        plan,
        training.communicator,
        distillation,
        training.total_steps,
    ))
}

/// Claims the right to write, restores or initializes the weights, and starts the loader.
fn start_run(
    training: ResolvedTraining<'_>,
    plan: PlannedBatch,
    mut stepper: Stepper,
    memory: &Memory,
) -> Result<TrainingRun> {
    let config = &plan.config;
    let communicator = training.communicator;
    let digest = training.dataset_digest().to_owned();

    // The claim comes before the newest checkpoint is looked for: after it no other process can
    // publish a newer one.
    let saver = CheckpointSaver::claim(config, communicator)?;
    // Before the state is restored, which goes from device to device then.
    if let Some(device) = memory.device() {
        communicator.connect_devices(device)?;
    }

    let checkpoints = saver.checkpoints();
    let resumed =
        resume::restore_or_initialize(&mut stepper, checkpoints, communicator, config, &digest)?;

    stepper.ensure_same_weights(communicator)?;
    let seeding = resumed.state.seeding;
    let stage_seed = seeding.stage_seed(config.seed, &config.run.stage);
    stepper.set_dropout_seed(stage_seed);
    // Batches are a function of seed and step, so the loader need not replay earlier ones.
    let loader = training.start_loader(resumed.state.step, stage_seed, plan.cache)?;
    let rank_sync = RankSync::new(communicator.clone(), config.global_batch_size as usize)?;
    let progress = RunProgress::new(training.total_steps, training.steps_per_epoch, resumed);

    TrainingRun::new(training, plan, stepper, progress, rank_sync, saver, loader)
}
