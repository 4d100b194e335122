//! How often and when a failed attempt is followed by another.

use super::*;

#[test]
fn a_budget_ends_after_as_many_restarts_as_it_allows() {
    let retries = RetryLimits {
        application: 2,
        infrastructure: 1,
    };

    let rows = [
        (FailureClass::Config, 0, 0, Some("same way")),
        (FailureClass::Killed, 1, 9, None),
        (
            FailureClass::Killed,
            2,
            0,
            Some("all 2 restarts of spec.retries.application"),
        ),
        (FailureClass::NodeLost, 9, 0, None),
        (
            FailureClass::NodeLost,
            0,
            1,
            Some("all 1 restarts of spec.retries.infrastructure"),
        ),
    ];

    for (class, application, infrastructure, expected) in rows {
        let restarts = RestartCounts {
            application,
            infrastructure,
            ..RestartCounts::default()
        };

        let why = retries_exhausted(class, &restarts, &retries);
        match expected {
            None => assert_eq!(why, None, "{class:?}"),
            Some(part) => assert!(why.unwrap().contains(part), "{class:?}"),
        }
    }
}

#[test]
fn restarts_are_counted_by_budget_and_by_class() {
    let mut restarts = RestartCounts::default();
    for class in [
        FailureClass::Killed,
        FailureClass::NodeLost,
        FailureClass::NodeLost,
    ] {
        count_restart(&mut restarts, class);
    }

    assert_eq!(
        (
            restarts.total,
            restarts.application,
            restarts.infrastructure
        ),
        (3, 1, 2)
    );

    assert_eq!(restarts.by_class["NodeLost"], 2);
}

#[test]
fn each_restart_waits_longer_up_to_five_minutes() {
    for (total, seconds) in [
        (0, 2),
        (1, 2),
        (2, 4),
        (3, 8),
        (8, 256),
        (9, 300),
        (1000, 300),
    ] {
        assert_eq!(
            backoff_seconds(&RestartCounts {
                application: total,
                ..RestartCounts::default()
            }),
            seconds
        );
    }
}
