//! Small runs, trained to their end or to a stop.

use std::cell::Cell;

use cnclip::error::Error;
use cnclip::progress::{ReportOutputs, Reporter};
use cnclip::train::train_stage;
use cnclip_crds::report::ProgressReport;
use cnclip_crds::trainer_config::TrainConfig;

/// Trains until `stop` says so after a step, counted from this call's first.
pub(crate) fn train_until(
    config: &TrainConfig,
    stop_after: u64,
) -> (Result<(), Error>, ProgressReport) {
    let reporter = Reporter::start(config.run.clone(), ReportOutputs::default()).unwrap();
    let steps = Cell::new(0);
    let done = train_stage(config, &reporter, || {
        steps.set(steps.get() + 1);
        steps.get() == stop_after
    });

    (done, reporter.current_report())
}

pub(crate) fn train_to_end(config: &TrainConfig) -> ProgressReport {
    let (done, report) = train_until(config, u64::MAX);
    done.unwrap();
    report
}
