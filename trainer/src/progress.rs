//! What a run says of itself while it runs: on its port, in its log, on a terminal, as its last
//! words, and afterwards as a page. Never makes a step slower, and never ends a run.

mod background_writer;
pub mod history;
mod http_server;
mod log_changes;
pub mod logging;
pub mod metrics;
pub mod process_memory;
mod terminal_bar;
pub mod termination_message;

use std::net::SocketAddr;
use std::path::PathBuf;

use cnclip_crds::report::{FailureReport, ProgressReport, TrainerActivity};
use cnclip_crds::{names, trainer_config::RunIdentity};
use indicatif::MultiProgress;
use tokio::sync::watch;

use crate::error::{Error, Result};
use background_writer::BackgroundWriter;
use http_server::ProgressServer;

/// Where reports go besides the log.
#[derive(Clone, Debug, Default)]
pub struct ReportOutputs {
    /// The address that answers `/progress`, `/metrics` and `/healthz`.
    pub listen: Option<String>,
    /// The file of last words.
    pub termination_log: Option<PathBuf>,
    /// The bars of a terminal.
    pub progress_bars: Option<MultiProgress>,
}

/// Holds the one report of a run and tells every change of it; may be shared between threads.
///
/// # Guarantees
/// An update takes microseconds, whoever listens or does not. Dropping it waits at most a second
/// for the last report to be told.
#[derive(Debug)]
pub struct Reporter {
    // Dropped first: the teller ends when there is nobody left to say anything.
    current: watch::Sender<ProgressReport>,
    /// None where nobody is to hear of it.
    _background_writer: Option<BackgroundWriter>,
    server: Option<ProgressServer>,
    has_bar: bool,
}

impl Reporter {
    /// Opens the outlets and reports that the run is starting.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub fn start(run: RunIdentity, outlets: ReportOutputs) -> Result<Self> {
        let pod_uid = std::env::var(names::ENV_POD_UID).unwrap_or_default();
        let mut report = ProgressReport {
            run,
            pod_uid,
            ..ProgressReport::default()
        };

        stamp_report(&mut report);
        let (current, reports) = watch::channel(report);
        let server = outlets
            .listen
            .map(|listen| ProgressServer::start(&listen, reports.clone()));

        let server = server.transpose()?;
        let bar = outlets
            .progress_bars
            .as_ref()
            .map(terminal_bar::TerminalBar::new);
        let has_bar = bar.is_some();
        let teller = BackgroundWriter::start(reports, bar, outlets.termination_log);
        let _teller =
            teller.map_err(|error| Error::Bug(format!("no thread to report: {error}")))?;

        Ok(Self {
            current,
            _background_writer: Some(_teller),
            server,
            has_bar,
        })
    }

    /// Keeps a report that nobody hears of: of a rank for which another speaks.
    pub fn without_outputs(run: RunIdentity) -> Self {
        let (current, _) = watch::channel(ProgressReport {
            run,
            ..ProgressReport::default()
        });

        Self {
            current,
            _background_writer: None,
            server: None,
            has_bar: false,
        }
    }

    /// Changes the report and tells it.
    pub fn update_report(&self, change: impl FnOnce(&mut ProgressReport)) {
        let before = self.current_report();
        self.current.send_modify(|report| {
            change(report);
            stamp_report(report);
        });

        if self._background_writer.is_some() {
            log_changes::log_report_changes(&before, &self.current_report(), self.has_bar);
        }
    }

    /// Tells that the run ended badly, and why.
    pub fn report_failure(&self, error: &Error) {
        let exit_code = error.exit_code().exit_code().into();
        let failure = FailureReport {
            exit_code,
            message: error.to_string(),
        };

        self.update_report(|report| {
            report.activity = TrainerActivity::Failed;
            report.failure = Some(failure);
        });
    }

    /// The report as it was last told.
    pub fn current_report(&self) -> ProgressReport {
        self.current.borrow().clone()
    }

    /// Where it answers, if it does.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(ProgressServer::address)
    }
}

fn stamp_report(report: &mut ProgressReport) {
    report.reported_at = jiff::Timestamp::now().as_second();
    report.peak_rss_bytes = process_memory::peak_resident_bytes().unwrap_or(report.peak_rss_bytes);
}

#[cfg(test)]
mod tests;
