//! Test fixtures: observed Jobs and pods.

use k8s_openapi::jiff::Timestamp;

use crate::observed::{JobState, ObservedJob, WorkerPod, WorkerState};
use crate::run_key::RunKey;

/// Time of the tests.
pub(crate) const NOW_SECONDS: i64 = 1_800_000_000;

/// Seconds after [`NOW_SECONDS`].
pub(crate) fn time_at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW_SECONDS + seconds).expect("a time within range")
}

/// An active Job.
pub(crate) fn active_job(stage: &str, attempt: i32) -> ObservedJob {
    ObservedJob {
        uid: format!("{stage}-{attempt}"),
        foreign: false,
        stage: stage.to_owned(),
        attempt,
        started: time_at(0),
        deleting: false,
        queued: false,
        checkpoint: None,
        state: JobState::Active,
    }
}

/// A Job in another state.
pub(crate) fn job_in(stage: &str, attempt: i32, state: JobState) -> ObservedJob {
    ObservedJob {
        state,
        ..active_job(stage, attempt)
    }
}

/// The only pod of an attempt.
pub(crate) fn worker_pod(stage: &str, attempt: i32, state: WorkerState) -> WorkerPod {
    WorkerPod {
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
        sidecar_running: false,
        disruption: None,
        state,
    }
}

/// State of a pod that terminated with this exit code.
pub(crate) fn ended_state(exit_code: i32, reason: &str, message: &str) -> WorkerState {
    WorkerState::Ended {
        exit_code: Some(exit_code),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

/// Key of a run.
pub(crate) fn run_key(kind: &'static str, name: &str) -> RunKey {
    RunKey {
        kind,
        namespace: "team".to_owned(),
        name: name.to_owned(),
    }
}
