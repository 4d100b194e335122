//! Failure of an attempt: root cause, failure class and retry policy. Pure.

mod class;
mod retry;

use cnclip_crds::exit_code::TrainerExit;
use k8s_openapi::jiff::Timestamp;

use crate::{
    observed::{INIT_CONTAINER_FAILED, JobState, ObservedJob, WorkerPod, WorkerState},
    resolved_run::StatusReason,
};
pub use class::{FailureClass, RetryBudget};
pub use retry::{backoff_seconds, count_restart, reset_retry_budget, retries_exhausted};

/// Failure of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptFailure {
    /// Failure class.
    pub class: FailureClass,
    /// Exit code of the trainer.
    pub exit_code: Option<i32>,
    /// Node of the pod.
    pub node: Option<String>,
    /// What was found, and the remedy.
    pub message: String,
}

impl AttemptFailure {
    /// A failure without a pod.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self {
            class,
            exit_code: None,
            node: None,
            message: message.into(),
        }
    }

    /// Prefixes the message by the worker, if there is more than one.
    fn with_worker_prefix(self, worker: &WorkerPod, workers: usize) -> Self {
        if workers < 2 {
            return self;
        }

        Self {
            message: format!("worker {}: {}", worker.index, self.message),
            ..self
        }
    }
}

/// The failure of a Job's attempt, if it has failed. Of the failures of several workers it is the root cause,
/// not a consequence.
pub fn attempt_failure(
    job: &ObservedJob,
    workers: &[&WorkerPod],
    now: Timestamp,
) -> Option<AttemptFailure> {
    // Kueue preempts a Job by suspending it, which deletes its pods; it admits the same Job again.
    if job.queued && job.state == JobState::Active {
        return None;
    }

    let failures: Vec<_> = workers
        .iter()
        .filter_map(|worker| Some((*worker, worker_failure(worker, now)?)))
        .collect();

    let nearest = failures
        .iter()
        .min_by_key(|(worker, failure)| root_cause_rank(worker, failure.class));

    // When one rank fails, the others fail in their collectives and request a restart. Such an end is reported
    // only when the root cause is known, or when waiting for it has timed out.
    if let Some((worker, failure)) = nearest {
        let unsure = may_be_consequence(worker, failure.class, now)
            && workers.iter().any(|one| one.is_alive(now));
        return (!unsure).then(|| failure.clone().with_worker_prefix(worker, workers.len()));
    }

    match &job.state {
        JobState::Failed(message) => Some(AttemptFailure::new(
            FailureClass::PodDeleted,
            format!("the pods were deleted before they completed ({message})"),
        )),
        _ => None,
    }
}

/// Ranks failures by how likely they are the root cause: first failures that no restart fixes, then those of
/// a single worker, then those that also occur because another worker has ended; ties by order.
fn root_cause_rank(worker: &WorkerPod, class: FailureClass) -> (u8, Timestamp, bool, i32) {
    let rank = match class {
        _ if class.retry_budget() == RetryBudget::Never => 0,
        FailureClass::Requeued | FailureClass::Terminated | FailureClass::PodDeleted => 2,
        _ => 1,
    };

    (
        rank,
        // In a chain of failures, the first to end is the cause of the others.
        worker.termination_time(),
        class == FailureClass::Requeued,
        worker.index,
    )
}

/// Whether a worker may have ended because of another whose termination is not observed yet.
fn may_be_consequence(worker: &WorkerPod, class: FailureClass, now: Timestamp) -> bool {
    // Kubelets report the ends of pods independently, so that the consequence may be seen before
    // the cause.
    const ROOT_CAUSE_TIMEOUT_SECONDS: i64 = 10;
    let waited = now.as_second() - worker.termination_time().as_second();
    class == FailureClass::Requeued && waited < ROOT_CAUSE_TIMEOUT_SECONDS
}

fn worker_failure(worker: &WorkerPod, now: Timestamp) -> Option<AttemptFailure> {
    let (class, exit_code, reported) = match &worker.state {
        WorkerState::Ended {
            exit_code: Some(0), ..
        } => return None,
        WorkerState::Ended {
            exit_code,
            reason,
            message,
        } => (
            classify_exit(worker, *exit_code, reason),
            *exit_code,
            termination_message(worker, message),
        ),
        _ if worker.is_lost(now) => (FailureClass::NodeLost, None, String::new()),
        _ => return None,
    };

    let message = if reported.is_empty() {
        describe_failure(class, worker, exit_code)
    } else {
        reported
    };

    Some(AttemptFailure {
        class,
        exit_code,
        node: worker.node.clone(),
        message,
    })
}

fn classify_exit(worker: &WorkerPod, exit_code: Option<i32>, reason: &str) -> FailureClass {
    // Before disruptions: after such an exit a retry is useless, whatever happened to the pod.
    match exit_code.and_then(TrainerExit::from_code) {
        Some(TrainerExit::Usage) => return FailureClass::Usage,
        Some(TrainerExit::Config) => return FailureClass::Config,
        Some(TrainerExit::Data) => return FailureClass::Data,
        _ => {}
    }

    if let Some(class) = classify_disruption(worker.disruption.as_deref(), reason) {
        return class;
    }

    match (exit_code, reason) {
        // Before the exit code, which is 137 as after any SIGKILL.
        (_, "OOMKilled") => FailureClass::OutOfMemory,
        // After a restart of the node or of its container runtime, which do not know how the container ended.
        _ if is_end_unknown(&worker.state) => FailureClass::NodeLost,
        (None, INIT_CONTAINER_FAILED) => FailureClass::InitContainer,
        // 126 to 128 are the codes of container runtimes for a program that cannot be executed or
        // is not found.
        (_, "StartError" | "ContainerCannotRun") | (Some(126..=128), _) => FailureClass::Image,
        // A deleted pod ends with 75, 143 or 137, depending on when the signals reach it: the
        // deletion is the cause.
        _ if worker.ends_by.is_some() => FailureClass::PodDeleted,
        (Some(71), _) => FailureClass::Hang,
        (Some(75), _) => FailureClass::Requeued,
        (Some(143), _) => FailureClass::Terminated,
        (Some(137), _) => FailureClass::Killed,
        // 128 plus the number of the signal.
        (Some(129..=255), _) => FailureClass::Crashed,
        (Some(_), _) => FailureClass::Bug,
        (None, _) => FailureClass::NodeRefused,
    }
}

/// What the kubelet and containerd say of a container that they do not know any more.
fn is_end_unknown(state: &WorkerState) -> bool {
    let WorkerState::Ended {
        exit_code: Some(exit_code),
        reason,
        ..
    } = state
    else {
        return false;
    };

    matches!(
        (exit_code, reason.as_str()),
        (137, "ContainerStatusUnknown") | (255, "Unknown")
    )
}

/// Failure class of a `DisruptionTarget` condition.
fn classify_disruption(disruption: Option<&str>, reason: &str) -> Option<FailureClass> {
    match (disruption, reason) {
        (Some("PreemptionByScheduler"), _) | (_, "Preempting") => Some(FailureClass::Preempted),
        (Some("DeletionByTaintManager" | "DeletionByPodGC"), _) | (_, "NodeLost") => {
            Some(FailureClass::NodeLost)
        }
        (Some("EvictionByEvictionAPI" | "TerminationByKubelet"), _) | (_, "Evicted") => {
            Some(FailureClass::Evicted)
        }
        _ => None,
    }
}

/// The message of the trainer's termination message.
fn termination_message(worker: &WorkerPod, message: &str) -> String {
    // The message is repeated in a condition, the last failure and an event, whose sizes are
    // limited.
    const MAX_MESSAGE_CHARS: usize = 1024;
    let text = match worker.last_report() {
        Some(report) => report
            .failure
            .map(|failure| failure.message)
            .unwrap_or_default(),
        None => message.trim().to_owned(),
    };

    text.chars().take(MAX_MESSAGE_CHARS).collect()
}

fn describe_failure(class: FailureClass, worker: &WorkerPod, exit_code: Option<i32>) -> String {
    let node = worker.node.as_deref().unwrap_or("unknown");
    let name = &worker.name;
    let code = exit_code.map_or_else(
        || "no exit code".to_owned(),
        |code| format!("exit code {code}"),
    );

    match class {
        FailureClass::OutOfMemory => format!(
            "pod {name} ran out of memory: raise spec.workers.resources.limits.memory, \
             or set microBatchSize of the stage to Auto"
        ),
        FailureClass::NodeLost if is_end_unknown(&worker.state) => {
            format!("node {node} or its container runtime was restarted, and with it pod {name}")
        }
        FailureClass::NodeLost => format!("node {node} of pod {name} stopped answering"),
        FailureClass::Preempted => {
            format!("pod {name} was preempted on node {node} by a pod of higher priority")
        }
        FailureClass::Evicted => format!("pod {name} was evicted from node {node}"),
        FailureClass::PodDeleted => format!("pod {name} was deleted ({code})"),
        FailureClass::Image => format!(
            "image {} could not be started: it must contain the program cnclip of this release",
            worker.image
        ),
        _ => format!(
            "pod {name} on node {node} ended with {code}; `kubectl logs {name}` shows its log"
        ),
    }
}

/// The failure of pods that are not running before the start deadline.
pub fn start_deadline_failure(
    limit: i64,
    job: &ObservedJob,
    cause: Option<&StatusReason>,
    now: Timestamp,
) -> Option<AttemptFailure> {
    let cause = cause?;
    let waited = now.as_second() - job.started.as_second();
    // Time in a queue does not count: waiting for quota is expected.
    (job.state == JobState::Active && !job.queued && waited > limit).then(|| {
        let message = format!(
            "not started within {limit} s (spec.startDeadlineSeconds): {}",
            cause.message
        );

        AttemptFailure::new(FailureClass::StartDeadline, message)
    })
}

#[cfg(test)]
mod tests;
