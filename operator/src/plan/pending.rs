//! Why pods are pending, and the remedy. Pure.

use crate::{
    observed::{ObservedJob, WorkerPod, WorkerState},
    resolved_run::{ResolvedRun, StatusReason},
};

/// Why the first worker that is not running is pending; `None` if all are running.
pub fn pending_reason(
    resolved: &ResolvedRun,
    stage: &str,
    job: &ObservedJob,
    workers: &[&WorkerPod],
) -> Option<StatusReason> {
    // Before the check for pods: a Job that Kueue holds suspended has none by design.
    let (reason, found) = if job.queued {
        let queue = resolved.policy.queue_name.as_deref().unwrap_or("unknown");
        (
            "Queued",
            format!("is queued in {queue} until quota is available"),
        )
    } else if workers.is_empty() {
        let found = "has no pod yet; if this lasts, `kubectl describe job` says why: a service account \
                     that is missing, or a quota that is used up";
        ("NoPods", found.to_owned())
    } else {
        workers
            .iter()
            .find_map(|worker| worker_pending_reason(resolved, worker))?
    };

    Some(StatusReason::new(
        reason,
        format!("stage {stage} cannot start: {found}"),
    ))
}

fn worker_pending_reason(
    resolved: &ResolvedRun,
    worker: &WorkerPod,
) -> Option<(&'static str, String)> {
    let index = worker.index;
    match &worker.state {
        WorkerState::Unscheduled { reason, message } if reason == "SchedulingGated" => Some((
            "Queued",
            format!("worker {index} is held by a scheduling gate ({message})"),
        )),
        WorkerState::Unscheduled { message, .. } => Some((
            "Unschedulable",
            format!(
                "no node fits worker {index} ({message}). Free a node, or request less in \
                 spec.workers.resources, nodeSelector or tolerations"
            ),
        )),
        WorkerState::Waiting { reason, message } => {
            Some(container_waiting_reason(resolved, worker, reason, message))
        }
        WorkerState::Running | WorkerState::Ended { .. } => None,
    }
}

fn container_waiting_reason(
    resolved: &ResolvedRun,
    worker: &WorkerPod,
    reason: &str,
    message: &str,
) -> (&'static str, String) {
    let index = worker.index;
    match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => (
            "ImagePullFailed",
            format!(
                "worker {index} waits for image {} ({message}). Push it, or set spec.workers.image to \
                 one that the node can pull",
                worker.image
            ),
        ),
        "CreateContainerConfigError" => (
            "CredentialsMissing",
            format!(
                "worker {index} waits: {message}. {}",
                credentials_hint(resolved)
            ),
        ),
        "" | "ContainerCreating" | "PodInitializing" => {
            let node = worker.node.as_deref().unwrap_or("a node");
            (
                "Starting",
                match message {
                    "" => format!("worker {index} is being created on {node}"),
                    _ => format!("worker {index} is being created on {node}: {message}"),
                },
            )
        }
        reason => (
            "ContainerRefused",
            format!("worker {index}: {reason} ({message})"),
        ),
    }
}

fn credentials_hint(resolved: &ResolvedRun) -> String {
    resolved.secret.as_ref().map_or_else(
        || "Create what is missing".to_owned(),
        |secret| {
            format!(
                "Create Secret {secret} in the run's namespace, or correct \
                 spec.artifacts.credentials.secretName"
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster_fixtures, manifest_fixtures, observed::ObservedState, resolve::RunResource,
    };

    #[test]
    fn what_pods_wait_for_is_named_with_what_to_do() {
        let resolved = manifest_fixtures::sample_training()
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        let wait = |reason: &str, message: &str| WorkerState::Waiting {
            reason: reason.to_owned(),
            message: message.to_owned(),
        };

        let no_node = |reason: &str| WorkerState::Unscheduled {
            reason: reason.to_owned(),
            message: "0/3 nodes are available".to_owned(),
        };

        let rows = [
            (
                wait("ErrImagePull", "not found"),
                "ImagePullFailed",
                "image cnclip/trainer:test (not found). Push it",
            ),
            (
                wait("ImagePullBackOff", "back-off"),
                "ImagePullFailed",
                "set spec.workers.image",
            ),
            (
                wait("InvalidImageName", "bad"),
                "ImagePullFailed",
                "worker 0 waits for image",
            ),
            (
                wait("ErrImageNeverPull", "policy"),
                "ImagePullFailed",
                "(policy)",
            ),
            (
                wait("CreateContainerConfigError", "secret \"s3\" not found"),
                "CredentialsMissing",
                "secret \"s3\" not found. Create Secret s3",
            ),
            (
                wait("CreateContainerError", "why"),
                "ContainerRefused",
                "CreateContainerError (why)",
            ),
            (
                wait("ContainerCreating", ""),
                "Starting",
                "worker 0 is being created on node-1",
            ),
            (
                no_node("Unschedulable"),
                "Unschedulable",
                "no node fits worker 0 (0/3 nodes are available). Free",
            ),
            (no_node("SchedulingGated"), "Queued", "scheduling gate"),
        ];

        for (state, reason, part) in rows {
            let worker = cluster_fixtures::worker_pod("align", 1, state.clone());
            let found = pending_reason(
                &resolved,
                "align",
                &cluster_fixtures::active_job("align", 1),
                &[&worker],
            )
            .unwrap();
            assert_eq!(found.reason, reason, "{state:?}");
            assert!(found.message.contains(part), "{}", found.message);
            assert!(
                found.message.starts_with("stage align cannot start: "),
                "{}",
                found.message
            );
        }
    }

    #[test]
    fn a_job_without_pods_and_a_queued_job_say_so() {
        let resolved = manifest_fixtures::sample_training()
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        let job = cluster_fixtures::active_job("align", 1);
        assert_eq!(
            pending_reason(&resolved, "align", &job, &[])
                .unwrap()
                .reason,
            "NoPods"
        );

        let queued = ObservedJob {
            queued: true,
            ..job
        };

        assert_eq!(
            pending_reason(&resolved, "align", &queued, &[])
                .unwrap()
                .reason,
            "Queued"
        );
    }

    #[test]
    fn a_worker_that_runs_waits_for_nothing() {
        let resolved = manifest_fixtures::sample_training()
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();

        let worker = cluster_fixtures::worker_pod("align", 1, WorkerState::Running);
        assert_eq!(
            pending_reason(
                &resolved,
                "align",
                &cluster_fixtures::active_job("align", 1),
                &[&worker]
            ),
            None
        );
    }
}
