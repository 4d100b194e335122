use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::{
    cluster_fixtures::{NOW_SECONDS, time_at},
    poll_failure::PollError,
    resolved_run::StatusReason,
};

fn observed(seconds: i64) -> ObservedState {
    ObservedState {
        now: time_at(seconds),
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
        &observed(0),
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
    write_conditions(&mut recorded, &waiting("Starting"), Some(1), &observed(0));
    write_conditions(
        &mut recorded,
        &waiting("Unschedulable"),
        Some(1),
        &observed(10),
    );

    let running = recorded.find_condition("Running").unwrap();
    assert_eq!(running.last_transition_time.0.as_second(), NOW_SECONDS);
    assert_eq!(running.reason, "Unschedulable");
    write_conditions(
        &mut recorded,
        &Phase::Running(String::new()),
        Some(1),
        &observed(20),
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
        (None, 0, "Unknown NoReport"),
        (Some(0), 900, "True ReportsFresh"),
        (Some(0), 901, "Unknown ReportsStale"),
    ];

    for (reported_at, seconds, expected) in rows {
        let mut recorded = RecordedStatus {
            stages: vec![stage(reported_at, 0)],
            ..RecordedStatus::default()
        };

        write_conditions(
            &mut recorded,
            &Phase::Running(String::new()),
            None,
            &observed(seconds),
        );

        let found = recorded.find_condition("Progressing").unwrap();
        assert_eq!(format!("{} {}", found.status, found.reason), expected);
    }
}

#[test]
fn a_pod_that_cannot_be_read_is_named_after_a_minute_with_the_cause_and_what_to_do() {
    let timeout = PollError::Timeout(Duration::from_secs(2));
    let refused = PollError::Connection("connection refused".to_owned());
    let rows = [
        (None, 59, timeout.clone(), "NoReport", ""),
        (Some(50), 59, timeout.clone(), "ReportsFresh", ""),
        (
            None,
            60,
            timeout,
            "Unreachable",
            "worker 0 at 10.0.0.7:8080 has given no report since 2027-01-15T08:00:00Z: no complete answer \
             within 2 s; nothing was reported yet. The operator reads the progress there: a NetworkPolicy \
             must let the operator's namespace reach port 8080 of the run's pods.",
        ),
        (
            Some(-5),
            60,
            refused,
            "Unreachable",
            "connection refused; step 7 of 9 was reported at 2027-01-15T07:59:55Z.",
        ),
        (
            None,
            60,
            PollError::Status(403),
            "Unreachable",
            "HTTP status 403;",
        ),
        (
            None,
            60,
            PollError::TooLarge(7),
            "ReportRefused",
            "the answer has more than 7 bytes; nothing was reported yet. Use a trainer image",
        ),
    ];

    for (reported_at, seconds, error, reason, part) in rows {
        let mut recorded = RecordedStatus {
            stages: vec![stage(reported_at, 0)],
            ..RecordedStatus::default()
        };

        let failure = PollFailure {
            address: SocketAddr::from(([10, 0, 0, 7], 8080)),
            since: time_at(0),
            error,
        };

        let mut seen = observed(seconds);
        seen.poll_failure = Some(failure);
        let running = Phase::Running(String::new());
        write_conditions(&mut recorded, &running, None, &seen);
        let found = recorded.find_condition("Progressing").unwrap();
        assert_eq!(found.reason, reason);
        assert!(found.message.contains(part), "{}", found.message);

        // It says the same a minute later, and goes away with an answer.
        let message = found.message.clone();
        if reason == "Unreachable" {
            seen.now = time_at(seconds + 60);
            write_conditions(&mut recorded, &running, None, &seen);
            let found = recorded.find_condition("Progressing").unwrap();
            assert_eq!(found.message, message);
        }

        seen.poll_failure = None;
        recorded.stages = vec![stage(Some(100), 0)];
        write_conditions(&mut recorded, &running, None, &seen);
        let found = recorded.find_condition("Progressing").unwrap();
        assert_eq!(found.reason, "ReportsFresh");
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
        write_conditions(&mut recorded, &phase, None, &observed(0));
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
        &observed(0),
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
    write_conditions(&mut recorded, &running, None, &observed(0));
    let degraded = recorded.find_condition("Degraded").unwrap();
    assert_eq!(degraded.reason, "CheckpointFailed");
    assert!(degraded.message.ends_with("no space is left there"));

    recorded.stages[0].state = StageState::Succeeded;
    write_conditions(&mut recorded, &running, None, &observed(0));
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
            &observed(0),
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
    write_conditions(&mut recorded, &Phase::Failed(cause), None, &observed(0));

    let failed = recorded.find_condition("Failed").unwrap();
    assert_eq!(failed.message.len(), 32_766);
}
