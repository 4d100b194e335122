//! The container's termination message, which Kubernetes keeps after the container ended: the last report,
//! shortened to fit. Never decides what a report says.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cnclip_compute::sync::lock_ignoring_poison;
use cnclip_crds::{names, report::ProgressReport};

/// The kubelet truncates longer messages, and half a JSON object cannot be parsed.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// The file of the termination message: that named by `CNCLIP_TERMINATION_LOG`, or Kubernetes' own if there
/// is one.
pub fn termination_log_path() -> Option<PathBuf> {
    let default = Path::new(names::TERMINATION_LOG);
    let configured = std::env::var_os(names::ENV_TERMINATION_LOG).filter(|path| !path.is_empty());
    // The kubelet creates its file before the container starts; outside a pod nothing is there.
    configured
        .map(PathBuf::from)
        .or_else(|| default.exists().then(|| default.to_owned()))
}

/// A report as JSON of at most [`MAX_MESSAGE_BYTES`].
///
/// # Guarantees
/// Always a whole [`ProgressReport`]. What is too long is dropped in this order: results from the first,
/// because earlier reports on `/progress` had them; checkpoints from the oldest, but not the newest; the
/// validations; the end of the failure's message.
///
/// # Examples
/// ```
/// use cnclip::progress::termination_message::{MAX_MESSAGE_BYTES, to_bounded_json};
/// use cnclip_crds::report::{FailureReport, ProgressReport};
///
/// let message = "no space left on device ".repeat(1000);
/// let report = ProgressReport {
///     failure: Some(FailureReport { exit_code: 75, message }),
///     ..ProgressReport::default()
/// };
///
/// let json = to_bounded_json(&report);
/// assert!(json.len() <= MAX_MESSAGE_BYTES);
/// assert_eq!(serde_json::from_str::<ProgressReport>(&json).unwrap().failure.unwrap().exit_code, 75);
/// ```
pub fn to_bounded_json(report: &ProgressReport) -> String {
    let mut report = report.clone();
    loop {
        let text = serde_json::to_string(&report).unwrap_or_default();
        let Some(excess) = text
            .len()
            .checked_sub(MAX_MESSAGE_BYTES)
            .filter(|&excess| excess > 0)
        else {
            return text;
        };

        shorten_report(&mut report, excess);
    }
}

fn shorten_report(report: &mut ProgressReport, excess: usize) {
    if !report.results.is_empty() {
        report.results.remove(0);
        return;
    }

    if report.checkpoints.len() > 1 {
        report.checkpoints.pop();
        return;
    }

    if report.validation.take().is_some() || report.best.take().is_some() {
        return;
    }

    match report.failure.as_mut().map(|failure| &mut failure.message) {
        Some(message) if message.len() > "…".len() => {
            // A byte of the message is at most six of JSON: this never cuts more than it must.
            let kept = message.len().saturating_sub(excess / 6 + "…".len() + 1);
            message.truncate(message.floor_char_boundary(kept));
            message.push('…');
        }
        // Only names are left, which the CRD bounds. Were they longer all the same, an empty report is
        // better than none: it still parses.
        _ => {
            *report = ProgressReport {
                reported_at: report.reported_at,
                ..ProgressReport::default()
            }
        }
    }
}

/// The file of the termination message. One thread writes it at a time.
#[derive(Debug)]
pub(super) struct TerminationLog {
    path: PathBuf,
    writing: Mutex<()>,
}

impl TerminationLog {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            path,
            writing: Mutex::new(()),
        })
    }

    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write_report(&self, report: &ProgressReport) -> std::io::Result<()> {
        let _writing = lock_ignoring_poison(&self.writing);
        // In place, not by rename: the kubelet bind-mounts this file, and a mount point cannot be replaced.
        std::fs::write(&self.path, to_bounded_json(report))
    }

    /// Writes a report and calls `end` with the lock held: a thread that began to write another would leave an empty
    /// file behind.
    pub(super) fn write_last(&self, report: &ProgressReport, end: impl FnOnce()) {
        let _writing = lock_ignoring_poison(&self.writing);
        // Nothing is left to do about a failure: the process ends.
        let _ = std::fs::write(&self.path, to_bounded_json(report));
        end();
    }
}

impl fmt::Display for TerminationLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::report::{CheckpointReport, FailureReport, TrainerActivity, ValidationReport};
    use cnclip_crds::tasks::{RetrievalRecalls, RetrievalScores, TaskResult, TaskScores};

    use super::*;

    fn report() -> ProgressReport {
        ProgressReport {
            step: 48_200,
            activity: TrainerActivity::Failed,
            ..ProgressReport::default()
        }
    }

    fn result(name: String) -> TaskResult {
        let dataset = "s3://data/flickr30k-cn/test/".into();
        let scores = RetrievalScores {
            texts: 5,
            recalls: Some(RetrievalRecalls::default()),
            threshold: None,
        };

        let digest = String::new();
        let measured = TaskScores::Retrieval(scores);
        TaskResult {
            name,
            dataset,
            digest,
            images: 1,
            seconds: 0.5,
            measured,
        }
    }

    #[test]
    fn a_report_that_fits_is_written_whole() {
        let report = ProgressReport {
            results: vec![result("muge".into())],
            ..report()
        };

        assert_eq!(
            serde_json::from_str::<ProgressReport>(&to_bounded_json(&report)).unwrap(),
            report
        );
    }

    #[test]
    fn whatever_is_too_long_the_step_and_the_start_of_the_reason_are_kept() {
        let messages = [
            "No".to_owned(),
            "坏样本太多".repeat(800),
            "\"\\\n".repeat(3000),
        ];

        let validation = ValidationReport {
            step: 3,
            recalls: Default::default(),
        };

        for message in messages {
            for results in [0, 9, 200] {
                let results = (0..results).map(|i| result(format!("任务-{i}"))).collect();
                let failure = Some(FailureReport {
                    exit_code: 65,
                    message: message.clone(),
                });

                let report = ProgressReport {
                    results,
                    failure,
                    validation: Some(validation),
                    ..report()
                };

                let text = to_bounded_json(&report);
                assert!(text.len() <= MAX_MESSAGE_BYTES, "{}", text.len());
                let kept: ProgressReport = serde_json::from_str(&text).unwrap();
                assert_eq!(
                    (kept.step, kept.activity),
                    (48_200, TrainerActivity::Failed)
                );
                let kept = kept.failure.unwrap();

                assert_eq!(kept.exit_code, 65);
                let start: String = message.chars().take(2).collect();
                assert!(kept.message.starts_with(&start), "{}", kept.message);
            }
        }
    }

    #[test]
    fn as_many_results_as_fit_are_kept() {
        let results = (0..200).map(|i| result(format!("task-{i}"))).collect();
        let kept: ProgressReport = serde_json::from_str(&to_bounded_json(&ProgressReport {
            results,
            ..report()
        }))
        .unwrap();

        assert!(kept.results.len() > 5, "{}", kept.results.len());
        assert_eq!(kept.results.last().unwrap().name, "task-199");
    }

    #[test]
    fn checkpoints_go_before_the_reason_and_the_newest_stays() {
        let saved = |step: i64| CheckpointReport {
            step,
            uri: "目".repeat(300),
            digest: "d".repeat(64),
            written_at: 1,
        };

        let message = "Why. ".repeat(100);
        let report = ProgressReport {
            checkpoints: (1..9).rev().map(saved).collect(),
            failure: Some(FailureReport {
                exit_code: 65,
                message: message.clone(),
            }),
            ..report()
        };

        let kept: ProgressReport = serde_json::from_str(&to_bounded_json(&report)).unwrap();
        assert_eq!(kept.failure.unwrap().message, message);
        let steps: Vec<_> = kept.checkpoints.iter().map(|saved| saved.step).collect();
        assert!(steps.starts_with(&[8]) && steps.len() < 8, "{steps:?}");
    }

    #[test]
    fn names_beyond_all_bounds_still_leave_a_report() {
        let mut report = report();
        report.pod_uid = "x".repeat(5000);
        assert!(serde_json::from_str::<ProgressReport>(&to_bounded_json(&report)).is_ok());
    }
}
