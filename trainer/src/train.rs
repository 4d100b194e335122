//! Trains one stage: the loop, and nothing else. What a step, a report or a checkpoint is, is said
//! in the rooms beside it.

mod check;
mod ending;
mod meter;
mod resume;
mod run;
mod setup;

use cnclip_crds::run_config::TrainConfig;

use crate::error::{Error, Result};
use crate::report::Reporter;

/// Trains a stage to its last step, from its newest checkpoint on if there is one. `stop` is asked
/// after every step.
///
/// # Errors
/// If something cannot be used, or the run was asked to stop: then its state is saved.
///
/// # Guarantees
/// A run that was stopped or killed and started again takes the same steps as one that was not.
pub fn train(config: &TrainConfig, reporter: &Reporter, stop: impl Fn() -> bool) -> Result<()> {
    let mut run = setup::set_up(config)?;
    run.tell_start(reporter);
    while !run.done() {
        run.take_step()?;
        // ---- below this line nothing changes the model ----
        let stopping = stop();
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
