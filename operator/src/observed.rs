//! Observed state of the cluster, reduced to what planning depends on. Pure.

use cnclip_crds::{
    evaluation::CnClipEvaluation, names, report::ProgressReport, training::CnClipTraining,
};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{ContainerStatus, Pod, PodCondition, PodStatus},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

/// State of the cluster outside the run's own object, read once per reconciliation.
#[derive(Clone, Debug, Default)]
pub struct ObservedState {
    /// Time of the observation.
    pub now: Timestamp,
    /// Jobs of the run.
    pub jobs: Vec<ObservedJob>,
    /// Pods of the run.
    pub workers: Vec<WorkerPod>,
    /// Progress report of worker 0 of the newest attempt, if it answered.
    pub report: Option<ProgressReport>,
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

    /// Pods of a Job, by completion index.
    pub fn workers_of(&self, job: &ObservedJob) -> Vec<&WorkerPod> {
        let mut workers: Vec<_> = self
            .workers
            .iter()
            .filter(|worker| worker.job_uid == job.uid)
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
    /// Termination time of its container.
    pub ended_at: Option<Timestamp>,
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
    /// Terminated.
    Ended {
        /// Exit code, if a container ran.
        exit_code: Option<i32>,
        /// Reason reported by the scheduler or kubelet.
        reason: String,
        /// Message of the scheduler or kubelet; after termination the trainer's termination message.
        message: String,
    },
}

impl WorkerPod {
    /// Whether its container may still be running.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        !matches!(self.state, WorkerState::Ended { .. }) && !self.is_lost(now)
    }

    /// Whether it was deleted and its grace period is over, but its kubelet has not confirmed the
    /// termination.
    pub fn is_lost(&self, now: Timestamp) -> bool {
        // Covers the delay of the kubelet's report and clock skew. Without a limit, the pod of a
        // dead node would block the next attempt until somebody deletes the node; the fence in the
        // store keeps it from writing.
        const NODE_LOST_TIMEOUT_SECONDS: i64 = 15;
        !matches!(self.state, WorkerState::Ended { .. })
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

/// Reads a Job of the run with this UID; `None` without the operator's labels.
pub fn parse_job(job: &Job, run_uid: &str) -> Option<ObservedJob> {
    let (stage, attempt) = stage_labels(&job.metadata)?;
    let status = job.status.clone().unwrap_or_default();
    let created = job
        .creation_timestamp()
        .map(|time| time.0)
        .unwrap_or_default();

    Some(ObservedJob {
        uid: job.uid().unwrap_or_default(),
        foreign: owner_uid(&job.metadata) != run_uid,
        stage,
        attempt,
        // The Job controller resets the start time when Kueue resumes the Job, so it excludes time
        // in the queue.
        started: status.start_time.as_ref().map_or(created, |time| time.0),
        deleting: job.metadata.deletion_timestamp.is_some(),
        // The operator never sets this field: it suspends a run by deleting the Job.
        queued: job
            .spec
            .as_ref()
            .and_then(|spec| spec.suspend)
            .unwrap_or(false),
        checkpoint: job.annotations().get(names::ANNOTATION_CHECKPOINT).cloned(),
        state: job_state(job),
    })
}

fn job_state(job: &Job) -> JobState {
    let conditions = job
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());

    for condition in conditions.filter(|condition| condition.status == "True") {
        match condition.type_.as_str() {
            // The second of each pair is set first, while pods are still terminating.
            "Complete" | "SuccessCriteriaMet" => return JobState::Complete,
            "Failed" | "FailureTarget" => {
                return JobState::Failed(condition.message.clone().unwrap_or_default());
            }
            _ => {}
        }
    }

    JobState::Active
}

/// Reads a pod; `None` without the operator's labels.
pub fn parse_worker_pod(pod: &Pod) -> Option<WorkerPod> {
    let (stage, attempt) = stage_labels(&pod.metadata)?;
    let spec = pod.spec.as_ref()?;
    let status = pod.status.clone().unwrap_or_default();
    // The Job controller sets this label since Kubernetes 1.28; before, it was an annotation only.
    let index = pod.labels().get("batch.kubernetes.io/job-completion-index");
    let disrupted = pod_condition(pod, "DisruptionTarget").filter(|found| found.status == "True");

    Some(WorkerPod {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        job_uid: owner_uid(&pod.metadata),
        stage,
        attempt,
        index: index.and_then(|index| index.parse().ok()).unwrap_or(0),
        image: spec
            .containers
            .first()
            .and_then(|first| first.image.clone())
            .unwrap_or_default(),
        image_id: image_id(&status),
        node: spec.node_name.clone(),
        ip: status.pod_ip.clone(),
        ends_by: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        deleted_at: deleted_at(&pod.metadata),
        ended_at: ended_at(&status),
        disruption: disrupted.and_then(|found| found.reason.clone()),
        state: worker_state(pod),
    })
}

fn image_id(status: &PodStatus) -> Option<String> {
    let container = status.container_statuses.iter().flatten().next()?;
    Some(container.image_id.clone()).filter(|id| !id.is_empty())
}

/// The time of the deletion request: the deletion timestamp is the end of the grace period.
fn deleted_at(metadata: &ObjectMeta) -> Option<Timestamp> {
    let ends_by = metadata.deletion_timestamp.as_ref()?.0;
    let grace = metadata.deletion_grace_period_seconds.unwrap_or_default();
    Timestamp::from_second(ends_by.as_second() - grace).ok()
}

fn ended_at(status: &PodStatus) -> Option<Timestamp> {
    let container = status.container_statuses.iter().flatten().next()?;
    Some(
        container
            .state
            .as_ref()?
            .terminated
            .as_ref()?
            .finished_at
            .as_ref()?
            .0,
    )
}

fn worker_state(pod: &Pod) -> WorkerState {
    let status = pod.status.clone().unwrap_or_default();
    let container = status.container_statuses.iter().flatten().next();
    // Before the phase, which stays Pending while an image is pulled and has no exit code.
    if let Some(state) = container.and_then(container_state) {
        return state;
    }

    // A pod that the kubelet rejects or evicts before its container is created has a reason of its
    // own, but no container status.
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return WorkerState::Ended {
            exit_code: None,
            reason: status.reason.unwrap_or_default(),
            message: status.message.unwrap_or_default(),
        };
    }

    match pod_condition(pod, "PodScheduled").filter(|found| found.status == "False") {
        Some(found) => WorkerState::Unscheduled {
            reason: found.reason.clone().unwrap_or_default(),
            message: found.message.clone().unwrap_or_default(),
        },
        None => WorkerState::Waiting {
            reason: String::new(),
            message: String::new(),
        },
    }
}

fn container_state(container: &ContainerStatus) -> Option<WorkerState> {
    let state = container.state.as_ref()?;
    if let Some(ended) = &state.terminated {
        return Some(WorkerState::Ended {
            exit_code: Some(ended.exit_code),
            reason: ended.reason.clone().unwrap_or_default(),
            message: ended.message.clone().unwrap_or_default(),
        });
    }

    if state.running.is_some() {
        return Some(WorkerState::Running);
    }

    let waiting = state.waiting.as_ref()?;
    Some(WorkerState::Waiting {
        reason: waiting.reason.clone().unwrap_or_default(),
        message: waiting.message.clone().unwrap_or_default(),
    })
}

fn pod_condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
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
