//! Jobs and pods that the tests pretend to have seen. Nothing else uses them.

use k8s_openapi::jiff::Timestamp;

use crate::observed::{JobSeen, JobState, Worker, WorkerState};

/// When everything in the tests happens.
pub(crate) const NOW: i64 = 1_800_000_000;

/// Seconds after [`NOW`].
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).expect("a time within range")
}

/// A Job at work.
pub(crate) fn job(stage: &str, attempt: i32) -> JobSeen {
    JobSeen {
        uid: format!("{stage}-{attempt}"),
        foreign: false,
        stage: stage.to_owned(),
        attempt,
        started: at(0),
        deleting: false,
        queued: false,
        checkpoint: None,
        state: JobState::Active,
    }
}

/// A Job in another state.
pub(crate) fn job_in(stage: &str, attempt: i32, state: JobState) -> JobSeen {
    JobSeen {
        state,
        ..job(stage, attempt)
    }
}

/// The only pod of an attempt.
pub(crate) fn worker(stage: &str, attempt: i32, state: WorkerState) -> Worker {
    Worker {
        name: format!("muge-{stage}-{attempt}-0-abcde"),
        uid: "pod-uid".to_owned(),
        job_uid: format!("{stage}-{attempt}"),
        stage: stage.to_owned(),
        attempt,
        index: 0,
        image: "cnclip/trainer:test".to_owned(),
        image_id: Some("cnclip/trainer@sha256:0123".to_owned()),
        node: Some("node-1".to_owned()),
        ip: Some("10.0.0.7".to_owned()),
        ends_by: None,
        deleted_at: None,
        ended_at: None,
        disruption: None,
        state,
    }
}

/// How a pod stands that ended with this code.
pub(crate) fn ended(exit_code: i32, reason: &str, message: &str) -> WorkerState {
    WorkerState::Ended {
        exit_code: Some(exit_code),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}
