//! What was found in the cluster, reduced to what a decision may depend on. Pure: reads objects, not
//! the API server, and judges nothing.

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

/// Everything outside a run's own object that a decision may depend on, read once a reconcile.
#[derive(Clone, Debug, Default)]
pub struct ObservedState {
    /// The time.
    pub now: Timestamp,
    /// The run's Jobs.
    pub jobs: Vec<ObservedJob>,
    /// The run's pods.
    pub workers: Vec<WorkerPod>,
    /// What worker 0 of the newest attempt says, if it answered.
    pub report: Option<ProgressReport>,
    /// The training that an evaluation names, if there is one.
    pub training: Option<CnClipTraining>,
    /// The evaluation that a gate names, if there is one.
    pub baseline: Option<CnClipEvaluation>,
}

impl ObservedState {
    /// The newest Job of a stage that is the run's own and not being deleted.
    pub fn newest_job(&self, stage: &str) -> Option<&ObservedJob> {
        let stays = |job: &&ObservedJob| job.stage == stage && !job.deleting && !job.foreign;
        let jobs = self.jobs.iter().filter(stays);
        jobs.max_by_key(|job| job.attempt)
    }

    /// The pods of a Job, by number.
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

/// A Job.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedJob {
    /// Its UID.
    pub uid: String,
    /// The stage it works on.
    pub stage: String,
    /// The attempt it is.
    pub attempt: i32,
    /// Since when its pods may be made.
    pub started: Timestamp,
    /// It is going away.
    pub deleting: bool,
    /// It has our name but is another's: that of a run of the same name that was deleted.
    pub foreign: bool,
    /// A queue holds it back.
    pub queued: bool,
    /// The checkpoint that it scores.
    pub checkpoint: Option<String>,
    /// How it stands.
    pub state: JobState,
}

/// How a Job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// At work.
    Active,
    /// Done.
    Complete,
    /// Given up by Kubernetes, in its words.
    Failed(String),
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerPod {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// UID of its Job.
    pub job_uid: String,
    /// The stage it works on.
    pub stage: String,
    /// The attempt it belongs to.
    pub attempt: i32,
    /// Its number in the attempt.
    pub index: i32,
    /// Its image.
    pub image: String,
    /// The same as the node found it, with its digest.
    pub image_id: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// When it must have ended, if it was deleted.
    pub ends_by: Option<Timestamp>,
    /// When it was deleted, if it was.
    pub deleted_at: Option<Timestamp>,
    /// When its container ended, if it did.
    pub ended_at: Option<Timestamp>,
    /// Why Kubernetes ended it, if it did.
    pub disruption: Option<String>,
    /// How it stands.
    pub state: WorkerState,
}

/// How a pod stands.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerState {
    /// No node has room, or none may be looked for yet.
    Unscheduled {
        /// The scheduler's word.
        reason: String,
        /// The scheduler's sentence.
        message: String,
    },
    /// On a node, not yet running.
    Waiting {
        /// The kubelet's word.
        reason: String,
        /// The kubelet's sentence.
        message: String,
    },
    /// At work.
    Running,
    /// Ended.
    Ended {
        /// Exit code, if a container ran.
        exit_code: Option<i32>,
        /// The kubelet's word.
        reason: String,
        /// The trainer's last words, or the kubelet's sentence.
        message: String,
    },
}

impl WorkerPod {
    /// Whether it may still be at work.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        !matches!(self.state, WorkerState::Ended { .. }) && !self.is_lost(now)
    }

    /// Whether it was deleted and should have ended, but nobody on its node says so.
    pub fn is_lost(&self, now: Timestamp) -> bool {
        const NODE_LOST_TIMEOUT_SECONDS: i64 = 15;
        !matches!(self.state, WorkerState::Ended { .. })
            && self
                .ends_by
                .is_some_and(|time| now.as_second() > time.as_second() + NODE_LOST_TIMEOUT_SECONDS)
    }

    /// When it was deleted or ended, whichever came first; the end of time as long as it did neither.
    pub fn termination_time(&self) -> Timestamp {
        self.deleted_at
            .into_iter()
            .chain(self.ended_at)
            .min()
            .unwrap_or(Timestamp::MAX)
    }

    /// The last report, if its last words were one.
    pub fn last_report(&self) -> Option<ProgressReport> {
        match &self.state {
            WorkerState::Ended { message, .. } => serde_json::from_str(message).ok(),
            _ => None,
        }
    }
}

/// Reads a Job of the run with this UID; `None` when its labels are not ours.
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
        started: status.start_time.as_ref().map_or(created, |time| time.0),
        deleting: job.metadata.deletion_timestamp.is_some(),
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
            "Complete" | "SuccessCriteriaMet" => return JobState::Complete,
            "Failed" | "FailureTarget" => {
                return JobState::Failed(condition.message.clone().unwrap_or_default());
            }
            _ => {}
        }
    }

    JobState::Active
}

/// Reads a pod; `None` when its labels are not ours.
pub fn parse_worker_pod(pod: &Pod) -> Option<WorkerPod> {
    let (stage, attempt) = stage_labels(&pod.metadata)?;
    let spec = pod.spec.as_ref()?;
    let status = pod.status.clone().unwrap_or_default();
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

/// Kubernetes writes down when a pod must have ended, and how long before that it was deleted.
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
    if let Some(state) = container.and_then(container_state) {
        return state;
    }

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
