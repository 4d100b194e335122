//! Writes reports to the terminal's progress bar and to the termination message, in a thread of its own.
//! Never delays a report: a slow output skips to the newest one.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use cnclip_crds::report::ProgressReport;
use futures::executor::block_on;
use tokio::sync::watch;

use super::{terminal_bar::TerminalBar, termination_message};
use crate::threads::spawn_named;

/// How long dropping the writer waits for its last report to be written.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The writing thread; dropping this waits for the last report, up to [`SHUTDOWN_TIMEOUT`].
#[derive(Debug)]
pub(super) struct BackgroundWriter {
    ended: Receiver<()>,
}

impl BackgroundWriter {
    /// Writes the current report and every one after it, until the sender is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(
        mut reports: watch::Receiver<ProgressReport>,
        bar: Option<TerminalBar>,
        termination_log: Option<PathBuf>,
    ) -> std::io::Result<Self> {
        let (end, ended) = sync_channel(0);
        // A new receiver takes the current value for old news; it must be written too.
        reports.mark_changed();
        spawn_named("progress", move || {
            write_reports(reports, bar, termination_log, end);
        })?;

        Ok(Self { ended })
    }
}

impl Drop for BackgroundWriter {
    fn drop(&mut self) {
        // Nothing is ever sent: this waits until the thread drops its end, or hangs on a full disk.
        let _ = self.ended.recv_timeout(SHUTDOWN_TIMEOUT);
    }
}

fn write_reports(
    mut reports: watch::Receiver<ProgressReport>,
    bar: Option<TerminalBar>,
    termination_log: Option<PathBuf>,
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
        let Some(path) = &termination_log else {
            continue;
        };
        let message = termination_message::to_bounded_json(&report);
        // In place, not by rename: the kubelet bind-mounts this file, and a mount point cannot be
        // replaced. A failure is logged once, not with every report.
        if let Err(error) = std::fs::write(path, message)
            && !std::mem::replace(&mut warned, true)
        {
            tracing::warn!(
                "cannot write the termination message to {}: {error}",
                path.display()
            );
        }
    }
}
