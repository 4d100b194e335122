//! Carries reports to the terminal's bar and to the file of last words, in a thread of its own.
//! Never holds a report back: a slow reader gets the newest one.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use cnclip_crds::report::Report;
use futures::executor::block_on;
use tokio::sync::watch;

use super::{bar::Bar, last_words};

/// How long the end of a run waits for its last report to be told.
const PATIENCE: Duration = Duration::from_secs(1);

/// The thread; dropping this waits a moment for the last report to be told.
#[derive(Debug)]
pub(super) struct Teller {
    ended: Receiver<()>,
}

impl Teller {
    /// Tells the report of now and every one after it, until the sender is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(
        mut reports: watch::Receiver<Report>,
        bar: Option<Bar>,
        last_words: Option<PathBuf>,
    ) -> std::io::Result<Self> {
        let (end, ended) = sync_channel(0);
        reports.mark_changed();
        let tell = move || tell(reports, bar, last_words, end);
        std::thread::Builder::new()
            .name("teller".into())
            .spawn(tell)?;

        Ok(Self { ended })
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        // Nothing is ever sent: this waits until the thread drops its end.
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

fn tell(
    mut reports: watch::Receiver<Report>,
    bar: Option<Bar>,
    last_words: Option<PathBuf>,
    _end: SyncSender<()>,
) {
    let mut complained = false;
    while block_on(reports.changed()).is_ok() {
        let report = reports.borrow_and_update().clone();
        if let Some(bar) = &bar {
            bar.show(&report);
        }

        let Some(path) = &last_words else { continue };
        if let Err(error) = std::fs::write(path, last_words::fit(&report))
            && !std::mem::replace(&mut complained, true)
        {
            tracing::warn!(
                "cannot write the last report to {}: {error}",
                path.display()
            );
        }
    }
}
