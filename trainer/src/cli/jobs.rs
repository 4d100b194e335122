//! `cnclip train` and `cnclip evaluate`: jobs with a configuration file, progress reports and a termination
//! message.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use cnclip::config_file::read_config;
use cnclip::error::{Error, Result};
use cnclip::progress::{ReportOutputs, Reporter, logging::ProcessLog, termination_message};
use cnclip::{evaluation_job, train};
use cnclip_crds::exit_code::TrainerExit;
use cnclip_crds::trainer_config::{EvaluateConfig, RunIdentity, TrainConfig};

use super::signals::{self, ProcessStop};

pub(super) fn run_training(file: &Path, listen: Option<String>, log: &ProcessLog) -> TrainerExit {
    let job = |config: TrainConfig| {
        let listen = listen.or_else(|| config.listen.clone());
        run_with_reporter(config.run.clone(), listen, log, |reporter, stop| {
            train::train_stage(&config, reporter, stop)
        })
    };

    read_config(file).map_or_else(fail_before_start, job)
}

pub(super) fn run_evaluation(file: &Path, listen: Option<String>, log: &ProcessLog) -> TrainerExit {
    let job = |config: EvaluateConfig| {
        let listen = listen.or_else(|| config.listen.clone());
        // A stop ends the process at once: an evaluation has no state that another attempt could go on from.
        run_with_reporter(config.run.clone(), listen, log, |reporter, _| {
            let table = evaluation_job::run_evaluation(&config, reporter)?;
            let shown = std::io::stdout().write_all(table.as_bytes());
            shown.map_err(Error::io_context("write", "standard output"))
        })
    };

    read_config(file).map_or_else(fail_before_start, job)
}

/// Runs a job with a reporter, which reports its failure too.
fn run_with_reporter(
    run: RunIdentity,
    listen: Option<String>,
    log: &ProcessLog,
    job: impl FnOnce(&Reporter, ProcessStop) -> Result<()>,
) -> TrainerExit {
    let outputs = ReportOutputs {
        listen,
        termination_log: termination_message::termination_log_path(),
        progress_bars: log.progress_bars(),
    };

    let reporter = match Reporter::start(run, outputs) {
        Ok(reporter) => Arc::new(reporter),
        Err(error) => return fail_before_start(error),
    };

    // After the reporter has started, so that a failure reaches the termination message, and before
    // the job, so that a SIGTERM during it saves the state.
    let installed = signals::install_signal_handlers(Arc::downgrade(&reporter))
        .map_err(|error| Error::Bug(format!("cannot install signal handlers: {error}")));
    match installed.and_then(|stop| job(&reporter, stop)) {
        Ok(()) => TrainerExit::Done,
        Err(error) => {
            reporter.report_failure(&error);
            error.exit_code()
        }
    }
}

/// Writes the termination message of a job that failed before its reporter started.
fn fail_before_start(error: Error) -> TrainerExit {
    let outputs = ReportOutputs {
        termination_log: termination_message::termination_log_path(),
        ..ReportOutputs::default()
    };

    // The run may be unknown, since it stands in the configuration; a report also has the pod's
    // UID.
    match Reporter::start(RunIdentity::default(), outputs) {
        Ok(reporter) => reporter.report_failure(&error),
        Err(_) => tracing::error!("{error}"),
    }

    error.exit_code()
}
