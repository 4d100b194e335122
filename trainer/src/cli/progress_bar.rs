//! The progress bar of long-running subcommands.

use indicatif::{ProgressBar, ProgressStyle};

/// Hidden by indicatif where standard error is no terminal.
pub(super) fn progress_bar(what: &str) -> ProgressBar {
    let template = format!("{{bar:32}} {{pos}}/{{len}} {what} · {{msg}} · {{eta}}");
    let style =
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}
