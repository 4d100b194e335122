//! Observed state of the cluster, reduced to what planning depends on. Pure.

mod jobs;
mod pods;

use cnclip_crds::{
    evaluation::CnClipEvaluation, names, rendezvous_secret::RendezvousSecret,
    report::ProgressReport, training::CnClipTraining,
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};

pub use jobs::parse_job;
pub(crate) use pods::INIT_CONTAINER_FAILED;
pub use pods::parse_worker_pod;

use crate::poll_failure::PollFailure;

/// State of the cluster outside the run's own object, read once per reconciliation.
#[derive(Clone, Debug, Default)]
pub struct ObservedState {
    /// Time of the observation.
    pub now: Timestamp,
    /// A secret that was drawn for this reconciliation, for the workers of an attempt that begins now.
    pub drawn_secret: Option<RendezvousSecret>,
    /// Jobs of the run.
    pub jobs: Vec<ObservedJob>,
    /// Pods of the run.
    pub workers: Vec<WorkerPod>,
    /// Newest progress report of worker 0 of the newest attempt.
    pub report: Option<ProgressReport>,
    /// Failed requests of its progress since.
    pub poll_failure: Option<PollFailure>,
    /// Training that an evaluation references, if it exists.
    pub training: Option<CnClipTraining>,
    /// Baseline evaluation that a gate references, if it exists.
    pub baseline: Option<CnClipEvaluation>,
}

impl ObservedState {
    /// Newest Job of a stage that belongs to this run and is not being deleted.
    pub fn newest_job(&self, stage: &str) -> Option<&ObservedJob> {
        // A foreign Job has this run's name in its labels, but the UID of a deleted run in its
        // owner reference: its result is not this run's.
        let stays = |job: &&ObservedJob| job.stage == stage && !job.deleting && !job.foreign;
        let jobs = self.jobs.iter().filter(stays);
        jobs.max_by_key(|job| job.attempt)
    }

    /// Pods of a Job, by completion index, without those of an earlier admission by Kueue.
    pub fn workers_of(&self, job: &ObservedJob) -> Vec<&WorkerPod> {
        // To suspend a Job deletes its pods; to resume it sets its start time anew.
        let is_of_earlier_admission = |worker: &WorkerPod| {
            let deleted = worker.deleted_at;
            deleted.is_some_and(|deleted| deleted < job.started)
        };

        let mut workers: Vec<_> = self
            .workers
            .iter()
            .filter(|worker| worker.job_uid == job.uid && !is_of_earlier_admission(worker))
            .collect();

        workers.sort_by_key(|worker| worker.index);
        workers
    }
}

/// A Job, reduced to what planning depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedJob {
    /// UID of the Job.
    pub uid: String,
    /// Stage.
    pub stage: String,
    /// Attempt.
    pub attempt: i32,
    /// Time from which its pods could be created: its start time, or its creation time.
    pub started: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it belongs to a deleted run of the same name.
    pub foreign: bool,
    /// Whether it is suspended by Kueue.
    pub queued: bool,
    /// URI of the checkpoint that it evaluates.
    pub checkpoint: Option<String>,
    /// State of the Job.
    pub state: JobState,
}

/// State of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Neither complete nor failed.
    Active,
    /// Condition `Complete`.
    Complete,
    /// Condition `Failed`, with its message.
    Failed(String),
}

/// A pod, reduced to what planning depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerPod {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// UID of its Job.
    pub job_uid: String,
    /// Stage.
    pub stage: String,
    /// Attempt.
    pub attempt: i32,
    /// Completion index in the Indexed Job.
    pub index: i32,
    /// Image in the pod spec.
    pub image: String,
    /// Image with the digest that the node pulled.
    pub image_id: Option<String>,
    /// Node of the pod.
    pub node: Option<String>,
    /// IP of the pod.
    pub ip: Option<String>,
    /// Deletion timestamp: end of its grace period, if it was deleted.
    pub ends_by: Option<Timestamp>,
    /// Time of the deletion request, if it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// Termination time of the trainer's container.
    pub ended_at: Option<Timestamp>,
    /// Whether a container that was injected into the pod still runs; it keeps the pod's GPUs.
    pub sidecar_running: bool,
    /// Reason of its `DisruptionTarget` condition.
    pub disruption: Option<String>,
    /// State of the pod.
    pub state: WorkerState,
}

/// State of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerState {
    /// Pending without a node.
    Unscheduled {
        /// Reason reported by the scheduler or kubelet.
        reason: String,
        /// Message of the scheduler or kubelet; after termination the trainer's termination message.
        message: String,
    },
    /// Scheduled, but not running.
    Waiting {
        /// Reason reported by the scheduler or kubelet.
        reason: String,
        /// Message of the scheduler or kubelet; after termination the trainer's termination message.
        message: String,
    },
    /// Running.
    Running,
    /// The trainer terminated, or never ran in a pod that has ended.
    Ended {
        /// Exit code, if the trainer ran.
        exit_code: Option<i32>,
        /// Reason reported by the scheduler or kubelet.
        reason: String,
        /// Message of the scheduler or kubelet; after termination the trainer's termination message.
        message: String,
    },
}

impl WorkerPod {
    /// Whether one of its containers may still be running.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        let trainer_ended = matches!(self.state, WorkerState::Ended { .. });
        (!trainer_ended || self.sidecar_running) && !self.is_lost(now)
    }

    /// Whether the trainer exited with 0.
    pub fn has_succeeded(&self) -> bool {
        matches!(
            self.state,
            WorkerState::Ended {
                exit_code: Some(0),
                ..
            }
        )
    }

    /// Whether it was deleted and its grace period is over, but its kubelet has not confirmed the
    /// termination.
    pub fn is_lost(&self, now: Timestamp) -> bool {
        // Covers the delay of the kubelet's report and clock skew. Without a limit, the pod of a
        // dead node would block the next attempt until somebody deletes the node; the fence in the
        // store keeps it from writing.
        const NODE_LOST_TIMEOUT_SECONDS: i64 = 15;
        let trainer_ended = matches!(self.state, WorkerState::Ended { .. });
        (!trainer_ended || self.sidecar_running)
            && self
                .ends_by
                .is_some_and(|time| now.as_second() > time.as_second() + NODE_LOST_TIMEOUT_SECONDS)
    }

    /// Time of deletion or termination, whichever came first; the maximum timestamp if neither happened.
    pub fn termination_time(&self) -> Timestamp {
        self.deleted_at
            .into_iter()
            .chain(self.ended_at)
            .min()
            .unwrap_or(Timestamp::MAX)
    }

    /// The progress report in its termination message, if there is one.
    pub fn last_report(&self) -> Option<ProgressReport> {
        match &self.state {
            // Not every message is a report: the container runtime writes its own when the start
            // fails.
            WorkerState::Ended { message, .. } => serde_json::from_str(message).ok(),
            _ => None,
        }
    }
}

fn owner_uid(metadata: &ObjectMeta) -> String {
    let owners = metadata.owner_references.iter().flatten();
    let controller = owners
        .into_iter()
        .find(|owner| owner.controller == Some(true));

    controller
        .map(|owner| owner.uid.clone())
        .unwrap_or_default()
}

fn stage_labels(metadata: &ObjectMeta) -> Option<(String, i32)> {
    let labels = metadata.labels.as_ref()?;
    let stage = labels.get(names::LABEL_STAGE)?.clone();
    let attempt = labels.get(names::LABEL_ATTEMPT)?.parse().ok()?;
    Some((stage, attempt))
}
