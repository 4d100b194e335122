//! The progress bar of a terminal. Drawn by the background writer alone, so that no step waits for it.

use cnclip_crds::report::{ProgressReport, TrainerActivity};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::duration::format_duration;

const TEMPLATE: &str = "{prefix:.bold} {wide_bar} {pos}/{len} {msg}";

/// One bar that follows the reports of a run.
#[derive(Debug)]
pub(super) struct TerminalBar(ProgressBar);

impl TerminalBar {
    /// A bar among those of a terminal.
    pub(super) fn new(bars: &MultiProgress) -> Self {
        let bar = bars.add(ProgressBar::no_length());
        let style = ProgressStyle::with_template(TEMPLATE);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(bar.with_style(style))
    }

    /// Draws a report.
    pub(super) fn draw_report(&self, report: &ProgressReport) {
        let Self(bar) = self;
        bar.set_prefix(report.run.stage.clone());
        bar.set_length(report.steps.max(0) as u64);
        bar.set_position(report.step.max(0) as u64);
        bar.set_message(format_message(report));

        if matches!(
            report.activity,
            TrainerActivity::Done | TrainerActivity::Failed
        ) {
            // `finish` would move the bar to its end, also for a run that failed halfway.
            bar.abandon();
        }
    }
}

fn format_message(report: &ProgressReport) -> String {
    let activity = match report.activity {
        TrainerActivity::Starting => Some("starting".to_owned()),
        TrainerActivity::Validating => Some("validating".to_owned()),
        TrainerActivity::Training
        | TrainerActivity::Evaluating
        | TrainerActivity::Done
        | TrainerActivity::Failed => None,
    };

    let parts = [
        activity,
        report.loss.map(|loss| format!("loss {loss:.3}")),
        report
            .samples_per_second
            .map(|rate| format!("{rate:.0} pairs/s")),
        report
            .validation
            .map(|validation| format!("R@1 {:.1}", validation.recalls.text_to_image.r1)),
        report
            .eta_seconds
            .filter(|_| report.activity == TrainerActivity::Training)
            .map(|seconds| format!("{} left", format_duration(seconds))),
    ];

    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_what_is_known() {
        let training = ProgressReport {
            activity: TrainerActivity::Training,
            loss: Some(3.2144),
            samples_per_second: Some(312.7),
            eta_seconds: Some(130),
            ..ProgressReport::default()
        };

        let validating = ProgressReport {
            activity: TrainerActivity::Validating,
            ..training.clone()
        };

        for (report, expected) in [
            (ProgressReport::default(), "starting"),
            (training, "loss 3.214 · 313 pairs/s · 2 min 10 s left"),
            (validating, "validating · loss 3.214 · 313 pairs/s"),
        ] {
            assert_eq!(format_message(&report), expected);
        }
    }
}
