//! Small runs, trained to their end or to a stop.

use std::cell::Cell;

use cnclip::error::Error;
use cnclip::report::{Outlets, Reporter};
use cnclip::train::train;
use cnclip_crds::report::Report;
use cnclip_crds::run_config::TrainConfig;

/// Trains until `stop` says so after a step, counted from this call's first.
pub(crate) fn run(config: &TrainConfig, stop_after: u64) -> (Result<(), Error>, Report) {
    let reporter = Reporter::start(config.run.clone(), Outlets::default()).unwrap();
    let steps = Cell::new(0);
    let done = train(config, &reporter, || {
        steps.set(steps.get() + 1);
        steps.get() == stop_after
    });

    (done, reporter.current())
}

pub(crate) fn whole(config: &TrainConfig) -> Report {
    let (done, report) = run(config, u64::MAX);
    done.unwrap();
    report
}
