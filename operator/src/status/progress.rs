//! Records a progress report in the status: numbers are formatted as text, checkpoints are listed newest
//! first. Results of evaluations are recorded by `results`. Pure.

use cnclip_crds::{
    report::{CheckpointReport, MAX_CHECKPOINTS, ProgressReport, ValidationReport},
    tasks::TaskResult,
    trainer_config::RunIdentity,
    training::{CheckpointStatus, ValidationStatus},
};
use k8s_openapi::jiff::Timestamp;

use super::results;
use crate::{
    observed::ObservedState, recorded_status::RecordedStatus, resolved_run::TrainerConfig, time,
};

/// Whether a report is from a pod of the attempt. Pod IPs are reused, so that another pod may answer.
pub fn matches_attempt(report: &ProgressReport, run: &RunIdentity, pod_uid: &str) -> bool {
    report.run == *run && report.pod_uid == pod_uid
}

/// The report with the results of the tasks of the configuration only, each once: the image, which the user
/// chooses, may report others without end.
pub fn keep_configured_tasks(report: &ProgressReport, config: &TrainerConfig) -> ProgressReport {
    let mut missing: Vec<_> = match config {
        TrainerConfig::Train(_) => Vec::new(),
        TrainerConfig::Evaluate(evaluate) => evaluate.tasks.iter().map(|task| &task.name).collect(),
    };

    let mut report = report.clone();
    report.results.retain(|result| {
        let found = missing.iter().position(|name| **name == result.name);
        found.map(|index| missing.swap_remove(index)).is_some()
    });

    report
}

/// Records the progress report of a stage that retains `kept_checkpoints` checkpoints.
pub fn record_progress(
    recorded: &mut RecordedStatus,
    stage_index: usize,
    kept_checkpoints: usize,
    report: &ProgressReport,
    observed: &ObservedState,
) {
    let Some(stage) = recorded.stages.get_mut(stage_index) else {
        return;
    };

    stage.step = report.step;
    stage.steps = report.steps;
    stage.loss = report.loss.map(|loss| format!("{loss:.4}"));
    stage.learning_rate = report.learning_rate.map(|rate| format!("{rate:.3e}"));
    stage.samples_per_second = report.samples_per_second.map(|speed| format!("{speed:.1}"));
    stage.samples_seen = report.samples_seen;
    stage.samples_skipped = report.samples_skipped;
    stage.eta_seconds = report.eta_seconds;
    stage.checkpoint_error.clone_from(&report.checkpoint_error);
    stage.best = report
        .best
        .as_ref()
        .or(report.validation.as_ref())
        .map(validation_status);

    // Over all attempts: the peak of a restarted process begins anew.
    let peak = stage.peak_rss_bytes.unwrap_or(0).max(report.peak_rss_bytes);
    stage.peak_rss_bytes = (peak > 0).then_some(peak);
    stage.reported_at = Some(format_timestamp(report.reported_at));
    let name = stage.name.clone();
    merge_checkpoints(
        &mut recorded.checkpoints,
        &name,
        kept_checkpoints,
        &report.checkpoints,
    );
    // Never fewer: a restarted evaluation, or a shortened termination message, has only some of the
    // results.
    if let Some(entry) = recorded.history.get_mut(stage_index)
        && report.results.len() >= entry.results.len()
    {
        entry.results = report
            .results
            .iter()
            .map(TaskResult::primary_metric_status)
            .collect();
    }

    results::record_results(recorded, report, observed);
}

/// Prepends the reported checkpoints of a stage and drops those that it has pruned: a report lists only the
/// checkpoints of the current attempt, so those of earlier attempts are counted too.
fn merge_checkpoints(
    checkpoints: &mut Vec<CheckpointStatus>,
    stage: &str,
    kept_checkpoints: usize,
    reported: &[CheckpointReport],
) {
    checkpoints.retain(|old| reported.iter().all(|one| one.uri != old.uri));
    checkpoints.splice(
        ..0,
        reported.iter().map(|one| checkpoint_status(stage, one)),
    );
    let mut newer = 0;
    checkpoints.retain(|one| {
        newer += usize::from(one.stage == stage);
        one.stage != stage || newer <= kept_checkpoints
    });

    checkpoints.truncate(MAX_CHECKPOINTS);
}

fn checkpoint_status(stage: &str, report: &CheckpointReport) -> CheckpointStatus {
    CheckpointStatus {
        stage: stage.to_owned(),
        step: report.step,
        uri: report.uri.clone(),
        digest: report.digest.clone(),
        written_at: format_timestamp(report.written_at),
    }
}

fn format_timestamp(seconds: i64) -> String {
    time::to_rfc3339(Timestamp::from_second(seconds).unwrap_or_default())
}

fn validation_status(validation: &ValidationReport) -> ValidationStatus {
    ValidationStatus {
        step: validation.step,
        recalls: validation.recalls.to_status(),
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::training::StageStatus;

    use super::*;

    fn recorded() -> RecordedStatus {
        let stage = StageStatus {
            name: "align".to_owned(),
            ..StageStatus::default()
        };

        RecordedStatus {
            stages: vec![stage],
            ..RecordedStatus::default()
        }
    }

    /// A report with these values.
    fn saved(steps: &[i64]) -> ProgressReport {
        let checkpoint = |&step: &i64| CheckpointReport {
            step,
            uri: format!("s3://runs/muge/align/checkpoints/{step}"),
            digest: "d".to_owned(),
            written_at: 1_800_000_000 + step,
        };

        ProgressReport {
            checkpoints: steps.iter().map(checkpoint).collect(),
            ..ProgressReport::default()
        }
    }

    #[test]
    fn numbers_become_text_of_a_readable_length() {
        let mut recorded = recorded();
        let report = ProgressReport {
            step: 5,
            steps: 50,
            loss: Some(0.123_456),
            learning_rate: Some(2e-5),
            samples_per_second: Some(313.27),
            eta_seconds: Some(9),
            peak_rss_bytes: 77,
            reported_at: 1_800_000_000,
            ..ProgressReport::default()
        };

        record_progress(&mut recorded, 0, 9, &report, &ObservedState::default());
        let stage = &recorded.stages[0];
        assert_eq!(stage.loss.as_deref(), Some("0.1235"));
        assert_eq!(stage.learning_rate.as_deref(), Some("2.000e-5"));
        assert_eq!(stage.samples_per_second.as_deref(), Some("313.3"));
        assert_eq!(stage.reported_at.as_deref(), Some("2027-01-15T08:00:00Z"));
        assert_eq!(
            (stage.step, stage.steps, stage.eta_seconds),
            (5, 50, Some(9))
        );

        assert_eq!(stage.peak_rss_bytes, Some(77));
    }

    #[test]
    fn the_newest_checkpoints_are_on_record_once_each_those_between_two_reports_too() {
        let mut recorded = recorded();
        for reported in [&[10][..], &[40, 30, 20, 10], &[40, 30, 20, 10]] {
            record_progress(
                &mut recorded,
                0,
                9,
                &saved(reported),
                &ObservedState::default(),
            );
        }

        let steps = |recorded: &RecordedStatus| -> Vec<_> {
            recorded
                .checkpoints
                .iter()
                .map(|found| found.step)
                .collect()
        };

        assert_eq!(steps(&recorded), [40, 30, 20, 10]);
        for step in [50, 60, 70, 80, 90] {
            record_progress(
                &mut recorded,
                0,
                9,
                &saved(&[step]),
                &ObservedState::default(),
            );
        }

        assert_eq!(steps(&recorded), [90, 80, 70, 60, 50, 40, 30, 20]);
        record_progress(
            &mut recorded,
            0,
            2,
            &saved(&[100]),
            &ObservedState::default(),
        );
        assert_eq!(steps(&recorded), [100, 90], "the others are deleted");
        recorded.stages[0].name = "tune".to_owned();
        record_progress(&mut recorded, 0, 2, &saved(&[5]), &ObservedState::default());
        assert_eq!(steps(&recorded), [5, 100, 90], "each stage has its own");
    }

    #[test]
    fn a_strangers_report_is_not_believed() {
        let run = RunIdentity {
            name: "muge".to_owned(),
            uid: "u-1".to_owned(),
            stage: "align".to_owned(),
            attempt: 2,
        };

        let report = ProgressReport {
            run: run.clone(),
            pod_uid: "p-1".to_owned(),
            ..ProgressReport::default()
        };

        assert!(matches_attempt(&report, &run, "p-1"));
        let strangers = [
            (
                RunIdentity {
                    uid: "u-2".to_owned(),
                    ..run.clone()
                },
                "p-1",
            ),
            (
                RunIdentity {
                    stage: "tune".to_owned(),
                    ..run.clone()
                },
                "p-1",
            ),
            (
                RunIdentity {
                    attempt: 1,
                    ..run.clone()
                },
                "p-1",
            ),
            (
                RunIdentity {
                    name: "other".to_owned(),
                    ..run.clone()
                },
                "p-1",
            ),
            (run, "p-2"),
        ];

        for (run, pod_uid) in strangers {
            assert!(
                !matches_attempt(&report, &run, pod_uid),
                "{run:?} {pod_uid}"
            );
        }
    }
}
