//! Writes reports to the terminal's progress bar and to the termination message, in a thread of its own.
//! Never delays a report: a slow output skips to the newest one.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cnclip_compute::sync::lock_ignoring_poison;
use cnclip_crds::report::ProgressReport;
use futures::executor::block_on;
use tokio::sync::watch;

use super::{terminal_bar::TerminalBar, termination_message::TerminationLog};
use crate::threads::spawn_named;

/// How long dropping the writer waits for its last report to be written.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The writing thread; dropping this waits for the last report, up to [`SHUTDOWN_TIMEOUT`].
#[derive(Debug)]
pub(super) struct BackgroundWriter {
    /// In a lock only because a reporter is shared between threads.
    ended: Mutex<Receiver<()>>,
}

impl BackgroundWriter {
    /// Writes the current report and every one after it, until the sender is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(
        mut reports: watch::Receiver<ProgressReport>,
        bar: Option<TerminalBar>,
        termination_log: Option<Arc<TerminationLog>>,
    ) -> std::io::Result<Self> {
        let (end, ended) = sync_channel(0);
        // A new receiver takes the current value for old news; it must be written too.
        reports.mark_changed();
        spawn_named("progress", move || {
            write_reports(reports, bar, termination_log, end);
        })?;

        Ok(Self {
            ended: Mutex::new(ended),
        })
    }
}

impl Drop for BackgroundWriter {
    fn drop(&mut self) {
        // Nothing is ever sent: this waits until the thread drops its end, or hangs on a full disk.
        let _ = lock_ignoring_poison(&self.ended).recv_timeout(SHUTDOWN_TIMEOUT);
    }
}

fn write_reports(
    mut reports: watch::Receiver<ProgressReport>,
    bar: Option<TerminalBar>,
    termination_log: Option<Arc<TerminationLog>>,
    _end: SyncSender<()>,
) {
    let mut warned = false;
    while block_on(reports.changed()).is_ok() {
        // Cloned: a borrow held while writing would block the next update of the report.
        let report = reports.borrow_and_update().clone();
        if let Some(bar) = &bar {
            bar.draw_report(&report);
        }

        // Every report, not only the last: a killed process has no time to write one.
        let Some(log) = &termination_log else {
            continue;
        };
        // A failure is logged once, not with every report.
        if let Err(error) = log.write_report(&report)
            && !std::mem::replace(&mut warned, true)
        {
            tracing::warn!("cannot write the termination message to {log}: {error}");
        }
    }
}
