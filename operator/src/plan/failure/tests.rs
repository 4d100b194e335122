//! Classification of failures: one row for each end of a pod.

use cnclip_crds::common::{RestartCounts, RetryLimits};

use super::*;
use crate::cluster_fixtures::{active_job, ended_state, job_in, time_at, worker_pod};

mod classes;
mod retries;

fn found(disruption: Option<&str>, deleted: bool, state: WorkerState) -> Option<AttemptFailure> {
    let worker = WorkerPod {
        disruption: disruption.map(str::to_owned),
        ends_by: deleted.then(|| time_at(0)),
        ..worker_pod("align", 1, state)
    };

    attempt_failure(&active_job("align", 1), &[&worker], time_at(5))
}

#[test]
fn a_failed_job_without_pods_has_lost_them() {
    let failed = job_in(
        "align",
        1,
        JobState::Failed("BackoffLimitExceeded".to_owned()),
    );

    let failure = attempt_failure(&failed, &[], time_at(0)).unwrap();
    assert_eq!(failure.class, FailureClass::PodDeleted);
    assert!(
        failure.message.contains("BackoffLimitExceeded"),
        "{}",
        failure.message
    );
}

/// A worker that ended with a code after some seconds; one that was killed for memory says so.
fn worker_ended(index: i32, exit_code: i32, second: i64) -> WorkerPod {
    let reason = if exit_code == 137 {
        "OOMKilled"
    } else {
        "Error"
    };

    let state = ended_state(exit_code, reason, "");
    WorkerPod {
        index,
        ended_at: Some(time_at(second)),
        ..worker_pod("align", 1, state)
    }
}

/// One row a rule. Read this table to know which of several failures is the cause.
#[test]
fn of_several_failed_workers_the_root_cause_is_reported() {
    // The class, and the number of the worker.
    type Cause = (FailureClass, i32);
    let running = |index| WorkerPod {
        index,
        ..worker_pod("align", 1, WorkerState::Running)
    };

    let deleted = |index, exit_code, asked, second| WorkerPod {
        ends_by: Some(time_at(asked + 120)),
        deleted_at: Some(time_at(asked)),
        ..worker_ended(index, exit_code, second)
    };

    let lost = |index| WorkerPod {
        ends_by: Some(time_at(-16)),
        deleted_at: Some(time_at(-136)),
        ..running(index)
    };

    let rows: [(&str, Vec<WorkerPod>, i64, Option<Cause>); 14] = [
        (
            "what no restart cures, though another was first",
            vec![worker_ended(0, 137, 1), worker_ended(1, 78, 3)],
            4,
            Some((FailureClass::Config, 1)),
        ),
        (
            "out of memory, though the others have ended first",
            vec![
                worker_ended(0, 75, 1),
                worker_ended(1, 137, 3),
                worker_ended(2, 75, 1),
            ],
            4,
            Some((FailureClass::OutOfMemory, 1)),
        ),
        (
            "the first of two that fell by themselves",
            vec![worker_ended(0, 139, 3), worker_ended(1, 70, 2)],
            4,
            Some((FailureClass::Bug, 1)),
        ),
        (
            "at the same time the lower number",
            vec![worker_ended(0, 139, 2), worker_ended(1, 70, 2)],
            4,
            Some((FailureClass::Crashed, 0)),
        ),
        (
            "deleted by somebody, though another has ended first",
            vec![worker_ended(0, 75, 2), deleted(1, 75, 1, 3)],
            4,
            Some((FailureClass::PodDeleted, 1)),
        ),
        (
            "deleted in the same second",
            vec![worker_ended(0, 75, 1), deleted(1, 75, 1, 3)],
            4,
            Some((FailureClass::PodDeleted, 1)),
        ),
        (
            "killed, and the others deleted with the Job for it",
            vec![deleted(0, 75, 2, 3), worker_ended(1, 139, 1)],
            4,
            Some((FailureClass::Crashed, 1)),
        ),
        (
            "asked to be run again, and the others deleted with the Job for it",
            vec![deleted(0, 75, 3, 4), worker_ended(1, 75, 1)],
            5,
            Some((FailureClass::Requeued, 1)),
        ),
        (
            "lost with its node",
            vec![lost(0), worker_ended(1, 75, 0)],
            0,
            Some((FailureClass::NodeLost, 0)),
        ),
        (
            "the others' end may have a cause that is not seen yet",
            vec![running(0), worker_ended(1, 75, 1)],
            10,
            None,
        ),
        (
            "the cause is not seen in time",
            vec![running(0), worker_ended(1, 75, 1)],
            11,
            Some((FailureClass::Requeued, 1)),
        ),
        (
            "all have ended",
            vec![worker_ended(0, 75, 2), worker_ended(1, 75, 1)],
            2,
            Some((FailureClass::Requeued, 1)),
        ),
        (
            "made no progress, which the others saw a second earlier",
            vec![worker_ended(0, 75, 1), worker_ended(1, 71, 2)],
            3,
            Some((FailureClass::Hang, 1)),
        ),
        (
            "a cause is not waited for",
            vec![running(0), worker_ended(1, 139, 1)],
            1,
            Some((FailureClass::Crashed, 1)),
        ),
    ];

    for (name, workers, now, expected) in rows {
        let workers: Vec<_> = workers.iter().collect();
        let found = attempt_failure(&active_job("align", 1), &workers, time_at(now));
        let class = found.as_ref().map(|failure| failure.class);
        assert_eq!(class, expected.map(|(class, _)| class), "{name}");
        let message = found.map(|failure| failure.message).unwrap_or_default();
        let worker = expected
            .map(|(_, index)| format!("worker {index}: "))
            .unwrap_or_default();

        assert!(message.starts_with(&worker), "{name}: {message}");
    }
}

#[test]
fn the_message_of_a_failure_is_that_of_the_trainer() {
    let report = r#"{"run":{"name":"muge","stage":"align"},"activity":"Failed","step":7,"steps":9,
        "reportedAt":1,"failure":{"exitCode":65,"message":"Shard 00017.tar ends early. Re-upload it."}}"#;
    let rows = [
        (report, "Shard 00017.tar ends early. Re-upload it."),
        ("panicked at the disco\n", "panicked at the disco"),
        (
            "",
            "pod muge-align-1-0-abcde on node node-1 ended with exit code 65; `kubectl logs",
        ),
    ];
    for (termination_message, expected) in rows {
        let message = found(None, false, ended_state(65, "Error", termination_message))
            .unwrap()
            .message;
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn pods_that_do_not_begin_in_time_are_given_up_with_the_reason() {
    let cause = StatusReason::new("ImagePullFailed", "image x is not found");
    let active = active_job("align", 1);
    let at_limit = start_deadline_failure(60, &active, Some(&cause), time_at(60));
    assert_eq!(at_limit, None);
    let late = start_deadline_failure(60, &active, Some(&cause), time_at(61)).unwrap();

    assert_eq!(late.class, FailureClass::StartDeadline);
    assert!(late.message.contains("60 s") && late.message.contains("image x is not found"));
    let queued = ObservedJob {
        queued: true,
        ..active.clone()
    };

    assert_eq!(
        start_deadline_failure(60, &queued, Some(&cause), time_at(999)),
        None,
        "a queue may take its time"
    );

    assert_eq!(
        start_deadline_failure(60, &active, None, time_at(999)),
        None,
        "a run that runs has started"
    );
}
