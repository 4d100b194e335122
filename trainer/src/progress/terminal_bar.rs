//! The progress bar of a terminal. Drawn by the background writer alone, so that no step waits for it.

use cnclip_crds::report::{ProgressReport, TrainerActivity};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// One bar that follows the reports of a run.
#[derive(Debug)]
pub(super) struct TerminalBar(ProgressBar);

impl TerminalBar {
    /// A bar among those of a terminal.
    pub(super) fn new(bars: &MultiProgress) -> Self {
        let bar = bars.add(ProgressBar::no_length());
        let style = ProgressStyle::with_template("{prefix:.bold} {wide_bar} {pos}/{len} {msg}");
        Self(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    /// Draws what a report says.
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
            bar.abandon();
        }
    }
}

fn format_message(report: &ProgressReport) -> String {
    let doing = match report.activity {
        TrainerActivity::Starting => Some("starting".to_owned()),
        TrainerActivity::Validating => Some("validating".to_owned()),
        TrainerActivity::Training
        | TrainerActivity::Evaluating
        | TrainerActivity::Done
        | TrainerActivity::Failed => None,
    };

    let parts = [
        doing,
        report.loss.map(|loss| format!("loss {loss:.3}")),
        report
            .samples_per_second
            .map(|rate| format!("{rate:.0} pairs/s")),
        report
            .validation
            .map(|found| format!("R@1 {:.1}", found.recalls.text_to_image.r1)),
        report
            .eta_seconds
            .filter(|_| report.activity == TrainerActivity::Training)
            .map(format_remaining_time),
    ];

    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

fn format_remaining_time(seconds: i64) -> String {
    let hours = seconds / 3600;
    let minutes = seconds / 60 % 60;
    match hours {
        0 => format!("{minutes}:{:02} left", seconds % 60),
        1..48 => format!("{hours} h {minutes:02} min left"),
        _ => format!("{} d {} h left", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_what_is_known() {
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

        for (report, said) in [
            (ProgressReport::default(), "starting"),
            (training, "loss 3.214 · 313 pairs/s · 2:10 left"),
            (validating, "validating · loss 3.214 · 313 pairs/s"),
        ] {
            assert_eq!(format_message(&report), said);
        }
    }

    #[test]
    fn time_left_is_as_coarse_as_it_is_long() {
        for (seconds, said) in [
            (7, "0:07 left"),
            (3599, "59:59 left"),
            (3600, "1 h 00 min left"),
            (104_400, "29 h 00 min left"),
            (180_000, "2 d 2 h left"),
        ] {
            assert_eq!(format_remaining_time(seconds), said);
        }
    }
}
