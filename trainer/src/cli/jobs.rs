//! The jobs that one file describes: read it, do it, leave last words, end with a code.

use std::io::Write;
use std::path::Path;

use cnclip::error::{Error, Result};
use cnclip::report::{Outlets, Reporter, last_words, log::Log};
use cnclip::{evaluate, train};
use cnclip_crds::exit::Exit;
use cnclip_crds::run_config::{EvaluateConfig, Identity, TrainConfig};
use serde::de::DeserializeOwned;

use super::stop;

pub(super) fn train(file: &Path, listen: Option<String>, log: &Log) -> Exit {
    let job = |config: TrainConfig| {
        let place = (config.run.clone(), listen.or_else(|| config.listen.clone()));
        report(place, log, |reporter| {
            train::train(&config, reporter, stop::asked)
        })
    };

    read(file).map_or_else(refuse, job)
}

pub(super) fn evaluate(file: &Path, listen: Option<String>, log: &Log) -> Exit {
    let job = |config: EvaluateConfig| {
        let place = (config.run.clone(), listen.or_else(|| config.listen.clone()));
        report(place, log, |reporter| {
            let table = evaluate::evaluate(&config, reporter, stop::asked)?;
            let shown = std::io::stdout().write_all(table.as_bytes());
            shown.map_err(Error::file("write", "standard output"))
        })
    };

    read(file).map_or_else(refuse, job)
}

/// JSON is YAML too; unknown keys are refused.
fn read<C: DeserializeOwned>(file: &Path) -> Result<C> {
    let text = std::fs::read_to_string(file).map_err(Error::file("read", file))?;
    let unfit = |error: String| {
        Error::Config(format!(
            "{} is not a configuration: {error}",
            file.display()
        ))
    };

    let value: serde_json::Value =
        serde_norway::from_str(&text).map_err(|error| unfit(error.to_string()))?;
    serde_json::from_value(value).map_err(|error| unfit(error.to_string()))
}

/// Does a job with a reporter that hears of its end, however it ends.
fn report(
    (run, listen): (Identity, Option<String>),
    log: &Log,
    job: impl FnOnce(&Reporter) -> Result<()>,
) -> Exit {
    let outlets = Outlets {
        listen,
        last_words: last_words::path(),
        bars: log.bars(),
    };

    let reporter = match Reporter::start(run, outlets) {
        Ok(reporter) => reporter,
        Err(error) => return refuse(error),
    };

    let heard = stop::listen().map_err(|error| Error::Bug(format!("cannot hear signals: {error}")));
    match heard.and_then(|()| job(&reporter)) {
        Ok(()) => Exit::Done,
        Err(error) => {
            reporter.fail(&error);
            error.exit()
        }
    }
}

/// Leaves last words about a job that could not begin.
fn refuse(error: Error) -> Exit {
    let outlets = Outlets {
        last_words: last_words::path(),
        ..Outlets::default()
    };

    match Reporter::start(Identity::default(), outlets) {
        Ok(reporter) => reporter.fail(&error),
        Err(_) => tracing::error!("{error}"),
    }

    error.exit()
}
