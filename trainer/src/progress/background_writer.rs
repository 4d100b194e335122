//! Carries reports to the terminal's bar and to the file of last words, in a thread of its own.
//! Never holds a report back: a slow reader gets the newest one.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use cnclip_crds::report::ProgressReport;
use futures::executor::block_on;
use tokio::sync::watch;

use super::{terminal_bar::TerminalBar, termination_message};

/// How long the end of a run waits for its last report to be told.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread; dropping this waits a moment for the last report to be told.
#[derive(Debug)]
pub(super) struct BackgroundWriter {
    ended: Receiver<()>,
}

impl BackgroundWriter {
    /// Tells the report of now and every one after it, until the sender is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(
        mut reports: watch::Receiver<ProgressReport>,
        bar: Option<TerminalBar>,
        last_words: Option<PathBuf>,
    ) -> std::io::Result<Self> {
        let (end, ended) = sync_channel(0);
        reports.mark_changed();
        let tell = move || write_reports(reports, bar, last_words, end);
        std::thread::Builder::new()
            .name("teller".into())
            .spawn(tell)?;

        Ok(Self { ended })
    }
}

impl Drop for BackgroundWriter {
    fn drop(&mut self) {
        // Nothing is ever sent: this waits until the thread drops its end.
        let _ = self.ended.recv_timeout(SHUTDOWN_TIMEOUT);
    }
}

fn write_reports(
    mut reports: watch::Receiver<ProgressReport>,
    bar: Option<TerminalBar>,
    last_words: Option<PathBuf>,
    _end: SyncSender<()>,
) {
    let mut complained = false;
    while block_on(reports.changed()).is_ok() {
        let report = reports.borrow_and_update().clone();
        if let Some(bar) = &bar {
            bar.draw_report(&report);
        }

        let Some(path) = &last_words else { continue };
        if let Err(error) = std::fs::write(path, termination_message::to_bounded_json(&report))
            && !std::mem::replace(&mut complained, true)
        {
            tracing::warn!(
                "cannot write the last report to {}: {error}",
                path.display()
            );
        }
    }
}
