//! Reads Jobs.

use cnclip_crds::names;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use super::{JobState, ObservedJob, owner_uid, stage_labels};

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
