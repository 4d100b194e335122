//! What a process publishes while it runs: the progress report on its port, metrics, log, progress bar and
//! termination message. Never makes a step slower, and never ends a run.

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
use std::sync::Arc;

use cnclip_crds::report::{FailureReport, ProgressReport, TrainerActivity};
use cnclip_crds::{names, trainer_config::RunIdentity};
use indicatif::MultiProgress;
use tokio::sync::watch;

use crate::error::{Error, Result};
use background_writer::BackgroundWriter;
use http_server::ProgressServer;
use terminal_bar::TerminalBar;
use termination_message::TerminationLog;

/// Where reports go besides the log.
#[derive(Clone, Debug, Default)]
pub struct ReportOutputs {
    /// The address that answers `/progress`, `/metrics` and `/healthz`.
    pub listen: Option<String>,
    /// The file of the termination message.
    pub termination_log: Option<PathBuf>,
    /// The bars of a terminal.
    pub progress_bars: Option<MultiProgress>,
}

/// Holds the progress report of a run and publishes every change of it; may be shared between threads.
///
/// # Guarantees
/// An update takes microseconds, however slow the outputs are. Dropping it waits at most a second for the
/// last report to be written.
///
/// # Examples
/// ```
/// use cnclip::progress::Reporter;
/// use cnclip_crds::trainer_config::RunIdentity;
///
/// let reporter = Reporter::without_outputs(RunIdentity::default());
/// reporter.update_report(|report| report.step = 7);
/// assert_eq!(reporter.current_report().step, 7);
/// ```
#[derive(Debug)]
pub struct Reporter {
    // Fields drop in order: without a sender the writer's thread ends, and dropping the writer waits for it.
    current: watch::Sender<ProgressReport>,
    /// None for a reporter without outputs.
    background_writer: Option<BackgroundWriter>,
    server: Option<ProgressServer>,
    has_bar: bool,
    termination_log: Option<Arc<TerminationLog>>,
}

impl Reporter {
    /// Opens the outputs and reports that the run is starting.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub fn start(run: RunIdentity, outputs: ReportOutputs) -> Result<Self> {
        let pod_uid = std::env::var(names::ENV_POD_UID).unwrap_or_default();
        let mut report = ProgressReport {
            run,
            pod_uid,
            ..ProgressReport::default()
        };

        stamp_report(&mut report);
        let (current, reports) = watch::channel(report);
        let server = outputs
            .listen
            .map(|listen| ProgressServer::start(&listen, reports.clone()))
            .transpose()?;

        let bar = outputs.progress_bars.as_ref().map(TerminalBar::new);
        let has_bar = bar.is_some();
        let termination_log = outputs.termination_log.map(TerminationLog::new);
        let background_writer = BackgroundWriter::start(reports, bar, termination_log.clone())
            .map_err(|error| Error::Bug(format!("no thread to report: {error}")))?;

        Ok(Self {
            current,
            background_writer: Some(background_writer),
            server,
            has_bar,
            termination_log,
        })
    }

    /// Keeps a report that is not published: that of a rank other than a process's first.
    pub fn without_outputs(run: RunIdentity) -> Self {
        let (current, _) = watch::channel(ProgressReport {
            run,
            ..ProgressReport::default()
        });

        Self {
            current,
            background_writer: None,
            server: None,
            has_bar: false,
            termination_log: None,
        }
    }

    /// Changes the report and publishes it.
    pub fn update_report(&self, change: impl FnOnce(&mut ProgressReport)) {
        let before = self.current_report();
        // `send_modify` works without receivers, which a reporter without outputs has not; `send`
        // would fail. Its closure holds the channel's lock, so logging comes after it.
        self.current.send_modify(|report| {
            change(report);
            stamp_report(report);
        });

        if self.background_writer.is_some() {
            log_changes::log_report_changes(&before, &self.current_report(), self.has_bar);
        }
    }

    /// Reports that the run failed, and why.
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

    /// Writes the termination message in this thread, and calls `end`, which ends the process, before another thread
    /// can begin to write a newer one.
    pub fn write_last_message(&self, end: impl FnOnce()) {
        match &self.termination_log {
            Some(log) => log.write_last(&self.current_report(), end),
            None => end(),
        }
    }

    /// The report as it was last published.
    pub fn current_report(&self) -> ProgressReport {
        self.current.borrow().clone()
    }

    /// The address of its port, if it has one.
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
