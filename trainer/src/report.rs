//! What a run says of itself while it runs: on its port, in its log, on a terminal, as its last
//! words, and afterwards as a page. Never makes a step slower, and never ends a run.

pub(crate) mod aligned;
mod bar;
pub mod history;
pub mod last_words;
mod lines;
pub mod log;
pub mod metrics;
pub mod page;
pub mod process;
mod server;
mod teller;

use std::net::SocketAddr;
use std::path::PathBuf;

use cnclip_crds::report::{Activity, FailureReport, Report};
use cnclip_crds::{names, run_config::Identity};
use indicatif::MultiProgress;
use tokio::sync::watch;

use crate::error::{Error, Result};
use server::Server;
use teller::Teller;

/// Where reports go besides the log.
#[derive(Clone, Debug, Default)]
pub struct Outlets {
    /// The address that answers `/progress`, `/metrics` and `/healthz`.
    pub listen: Option<String>,
    /// The file of last words.
    pub last_words: Option<PathBuf>,
    /// The bars of a terminal.
    pub bars: Option<MultiProgress>,
}

/// Holds the one report of a run and tells every change of it; may be shared between threads.
///
/// # Guarantees
/// An update takes microseconds, whoever listens or does not. Dropping it waits at most a second
/// for the last report to be told.
#[derive(Debug)]
pub struct Reporter {
    // Dropped first: the teller ends when there is nobody left to say anything.
    current: watch::Sender<Report>,
    /// None where nobody is to hear of it.
    _teller: Option<Teller>,
    server: Option<Server>,
    has_bar: bool,
}

impl Reporter {
    /// Opens the outlets and reports that the run is starting.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub fn start(run: Identity, outlets: Outlets) -> Result<Self> {
        let pod_uid = std::env::var(names::ENV_POD_UID).unwrap_or_default();
        let mut report = Report {
            run,
            pod_uid,
            ..Report::default()
        };

        stamp(&mut report);
        let (current, reports) = watch::channel(report);
        let server = outlets
            .listen
            .map(|listen| Server::start(&listen, reports.clone()));

        let server = server.transpose()?;
        let bar = outlets.bars.as_ref().map(bar::Bar::new);
        let has_bar = bar.is_some();
        let teller = Teller::start(reports, bar, outlets.last_words);
        let _teller =
            teller.map_err(|error| Error::Bug(format!("no thread to report: {error}")))?;

        Ok(Self {
            current,
            _teller: Some(_teller),
            server,
            has_bar,
        })
    }

    /// Keeps a report that nobody hears of: of a rank for which another speaks.
    pub fn silent(run: Identity) -> Self {
        let (current, _) = watch::channel(Report {
            run,
            ..Report::default()
        });

        Self {
            current,
            _teller: None,
            server: None,
            has_bar: false,
        }
    }

    /// Changes the report and tells it.
    pub fn update(&self, change: impl FnOnce(&mut Report)) {
        let before = self.current();
        self.current.send_modify(|report| {
            change(report);
            stamp(report);
        });

        if self._teller.is_some() {
            lines::tell(&before, &self.current(), self.has_bar);
        }
    }

    /// Tells that the run ended badly, and why.
    pub fn fail(&self, error: &Error) {
        let exit_code = error.exit().code().into();
        let failure = FailureReport {
            exit_code,
            message: error.to_string(),
        };

        self.update(|report| {
            report.activity = Activity::Failed;
            report.failure = Some(failure);
        });
    }

    /// The report as it was last told.
    pub fn current(&self) -> Report {
        self.current.borrow().clone()
    }

    /// Where it answers, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(Server::address)
    }
}

fn stamp(report: &mut Report) {
    report.reported_at = jiff::Timestamp::now().as_second();
    report.peak_rss_bytes = process::peak_resident_bytes().unwrap_or(report.peak_rss_bytes);
}

#[cfg(test)]
mod tests;
