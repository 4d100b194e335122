use cnclip_crds::report::ProgressReport;

use super::*;
use crate::{
    cluster_fixtures::{NOW_SECONDS, time_at},
    resolved_run::StatusReason,
};

fn observed(seconds: i64, answers: bool) -> ObservedState {
    ObservedState {
        now: time_at(seconds),
        report: answers.then(ProgressReport::default),
        ..ObservedState::default()
    }
}

fn stage(reported_at: Option<i64>, skipped: i64) -> StageStatus {
    StageStatus {
        name: "align".to_owned(),
        state: StageState::Running,
        step: 7,
        steps: 9,
        samples_skipped: skipped,
        reported_at: reported_at.map(|seconds| time::to_rfc3339(time_at(seconds))),
        ..StageStatus::default()
    }
}

#[test]
fn all_conditions_are_there_from_the_first_write_on() {
    let mut recorded = RecordedStatus::default();
    write_conditions(
        &mut recorded,
        &Phase::Waiting(StatusReason::new("Starting", "")),
        Some(3),
        &observed(0, false),
    );

    let types: Vec<_> = recorded
        .conditions
        .iter()
        .map(|found| found.type_.as_str())
        .collect();

    let expected = [
        "Accepted",
        "Running",
        "Progressing",
        "CheckpointVerified",
        "Degraded",
        "Suspended",
        "Complete",
        "Failed",
    ];

    assert_eq!(types, expected);
    for found in &recorded.conditions {
        assert_eq!(found.observed_generation, Some(3), "{}", found.type_);
        assert!(!found.reason.is_empty(), "{}", found.type_);
    }

    assert_eq!(recorded.observed_generation, Some(3));
}

#[test]
fn a_condition_keeps_the_time_of_its_last_change() {
    let mut recorded = RecordedStatus::default();
    let waiting = |reason| Phase::Waiting(StatusReason::new(reason, ""));
    write_conditions(
        &mut recorded,
        &waiting("Starting"),
        Some(1),
        &observed(0, false),
    );
    write_conditions(
        &mut recorded,
        &waiting("Unschedulable"),
        Some(1),
        &observed(10, false),
    );

    let running = recorded.find_condition("Running").unwrap();
    assert_eq!(running.last_transition_time.0.as_second(), NOW_SECONDS);
    assert_eq!(running.reason, "Unschedulable");
    write_conditions(
        &mut recorded,
        &Phase::Running(String::new()),
        Some(1),
        &observed(20, false),
    );

    let changed = |type_| {
        recorded
            .find_condition(type_)
            .unwrap()
            .last_transition_time
            .0
            .as_second()
    };

    assert_eq!(changed("Running"), NOW_SECONDS + 20);
    assert_eq!(changed("Accepted"), NOW_SECONDS);
}

#[test]
fn a_report_is_fresh_until_it_is_not() {
    let rows = [
        (None, 0, false, "Unknown NoReport"),
        (Some(0), 60, false, "True ReportsFresh"),
        (Some(0), 61, false, "Unknown ReportsStale"),
        (Some(0), 900, true, "True ReportsFresh"),
        (Some(0), 901, true, "Unknown ReportsStale"),
    ];

    for (reported_at, seconds, answers, expected) in rows {
        let mut recorded = RecordedStatus {
            stages: vec![stage(reported_at, 0)],
            ..RecordedStatus::default()
        };

        write_conditions(
            &mut recorded,
            &Phase::Running(String::new()),
            None,
            &observed(seconds, answers),
        );

        let found = recorded.find_condition("Progressing").unwrap();
        assert_eq!(format!("{} {}", found.status, found.reason), expected);
    }
}

#[test]
fn at_most_one_of_the_ends_is_true() {
    let cause = || StatusReason::new("Why", "");
    let rows = [
        (Phase::Rejected(cause()), "False False Unknown False False"),
        (Phase::Waiting(cause()), "True False Unknown False False"),
        (
            Phase::Running(String::new()),
            "True True Unknown False False",
        ),
        (
            Phase::Suspended(String::new()),
            "True False Unknown False True",
        ),
        (
            Phase::Complete(String::new()),
            "True False True False False",
        ),
        (Phase::Failed(cause()), "True False False True False"),
    ];

    for (phase, expected) in rows {
        let mut recorded = RecordedStatus::default();
        write_conditions(&mut recorded, &phase, None, &observed(0, false));
        let status = ["Accepted", "Running", "Complete", "Failed", "Suspended"]
            .map(|type_| recorded.find_condition(type_).unwrap().status.clone());
        assert_eq!(status.join(" "), expected, "{phase:?}");
    }
}

#[test]
fn skipped_samples_degrade_a_run() {
    let mut recorded = RecordedStatus {
        stages: vec![stage(Some(0), 3)],
        ..RecordedStatus::default()
    };

    write_conditions(
        &mut recorded,
        &Phase::Running(String::new()),
        None,
        &observed(0, true),
    );

    assert!(recorded.is_condition_true("Degraded"));
    assert!(
        recorded
            .find_condition("Degraded")
            .unwrap()
            .message
            .starts_with("3 samples")
    );
}

#[test]
fn a_failed_checkpoint_degrades_a_run_before_everything_else() {
    let failed = StageStatus {
        checkpoint_error: Some("no space is left there".into()),
        ..stage(Some(0), 3)
    };

    let mut recorded = RecordedStatus {
        stages: vec![failed],
        ..RecordedStatus::default()
    };

    let running = Phase::Running(String::new());
    write_conditions(&mut recorded, &running, None, &observed(0, true));
    let degraded = recorded.find_condition("Degraded").unwrap();
    assert_eq!(degraded.reason, "CheckpointFailed");
    assert!(degraded.message.ends_with("no space is left there"));

    recorded.stages[0].state = StageState::Succeeded;
    write_conditions(&mut recorded, &running, None, &observed(0, true));
    assert_eq!(
        recorded.find_condition("Degraded").unwrap().reason,
        "SamplesSkipped"
    );
}

#[test]
fn a_halved_micro_batch_degrades_a_stage_until_it_is_done() {
    for (state, degraded) in [(StageState::Running, true), (StageState::Succeeded, false)] {
        let halved = StageStatus {
            micro_batch_halved: true,
            state,
            ..stage(Some(0), 0)
        };

        let mut recorded = RecordedStatus {
            stages: vec![halved],
            ..RecordedStatus::default()
        };

        write_conditions(
            &mut recorded,
            &Phase::Running(String::new()),
            None,
            &observed(0, true),
        );

        assert_eq!(
            recorded.is_condition_true("Degraded"),
            degraded,
            "{state:?}"
        );
    }
}

#[test]
fn messages_of_conditions_fit_the_limit_of_kubernetes_in_bytes() {
    let mut recorded = RecordedStatus::default();
    let cause = StatusReason::new("Refused", "中".repeat(20_000));
    write_conditions(
        &mut recorded,
        &Phase::Failed(cause),
        None,
        &observed(0, false),
    );

    let failed = recorded.find_condition("Failed").unwrap();
    assert_eq!(failed.message.len(), 32_766);
}
