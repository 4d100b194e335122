//! Reads pods, whatever was injected into them: the trainer's container is found by its name.

use cnclip_crds::names;
use k8s_openapi::{
    api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::ResourceExt;

use super::{WorkerPod, WorkerState, owner_uid, stage_labels};

/// Reason of a pod that ended because of an init container.
pub(crate) const INIT_CONTAINER_FAILED: &str = "InitContainerFailed";

/// Reads a pod; `None` without the operator's labels.
pub fn parse_worker_pod(pod: &Pod) -> Option<WorkerPod> {
    let (stage, attempt) = stage_labels(&pod.metadata)?;
    let spec = pod.spec.as_ref()?;
    let status = pod.status.clone().unwrap_or_default();
    // The Job controller sets this label since Kubernetes 1.28; before, it was an annotation only.
    let index = pod.labels().get("batch.kubernetes.io/job-completion-index");
    let disrupted = pod_condition(pod, "DisruptionTarget").filter(|found| found.status == "True");
    let container = spec.containers.iter().find(|one| is_trainer(&one.name));

    Some(WorkerPod {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        job_uid: owner_uid(&pod.metadata),
        stage,
        attempt,
        index: index.and_then(|index| index.parse().ok()).unwrap_or(0),
        image: container
            .and_then(|container| container.image.clone())
            .unwrap_or_default(),
        image_id: image_id(&status),
        node: spec.node_name.clone(),
        ip: status.pod_ip.clone(),
        ends_by: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        deleted_at: deleted_at(&pod.metadata),
        ended_at: ended_at(&status),
        sidecar_running: sidecar_running(&status),
        disruption: disrupted.and_then(|found| found.reason.clone()),
        state: worker_state(pod, &status),
    })
}

fn is_trainer(container_name: &str) -> bool {
    container_name == names::TRAINER_CONTAINER
}

/// The kubelet sorts statuses by name, so that an injected container may come first.
fn trainer_status(status: &PodStatus) -> Option<&ContainerStatus> {
    let mut statuses = status.container_statuses.iter().flatten();
    statuses.find(|container| is_trainer(&container.name))
}

fn image_id(status: &PodStatus) -> Option<String> {
    let container = trainer_status(status)?;
    Some(container.image_id.clone()).filter(|id| !id.is_empty())
}

/// The time of the deletion request: the deletion timestamp is the end of the grace period.
fn deleted_at(metadata: &ObjectMeta) -> Option<Timestamp> {
    let ends_by = metadata.deletion_timestamp.as_ref()?.0;
    let grace = metadata.deletion_grace_period_seconds.unwrap_or_default();
    Timestamp::from_second(ends_by.as_second() - grace).ok()
}

fn ended_at(status: &PodStatus) -> Option<Timestamp> {
    let ended = termination(trainer_status(status)?)?;
    Some(ended.finished_at.as_ref()?.0)
}

fn termination(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.state.as_ref()?.terminated.as_ref()
}

/// Sidecars that are init containers are not counted: the kubelet ends those with the trainer.
fn sidecar_running(status: &PodStatus) -> bool {
    let is_running = |container: &ContainerStatus| {
        let state = container.state.as_ref();
        !is_trainer(&container.name) && state.is_some_and(|state| state.running.is_some())
    };

    !has_ended(status) && status.container_statuses.iter().flatten().any(is_running)
}

/// Whether no container of the pod runs, or will run.
fn has_ended(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
}

fn worker_state(pod: &Pod, status: &PodStatus) -> WorkerState {
    let container = trainer_status(status);
    if let Some(ended) = container.and_then(termination) {
        return WorkerState::Ended {
            exit_code: Some(ended.exit_code),
            reason: ended.reason.clone().unwrap_or_default(),
            message: ended.message.clone().unwrap_or_default(),
        };
    }

    // Before the state of the container, which stays `waiting` when an init container fails, and `running` when the
    // node is lost.
    if has_ended(status) {
        return ended_without_trainer(status);
    }

    // Before the scheduling condition, which says nothing of what the kubelet does.
    if let Some(state) = container.and_then(|container| live_state(container, status)) {
        return state;
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

/// Of a pod that ended before its trainer did: rejected or evicted by the kubelet, or ended by an init container.
fn ended_without_trainer(status: &PodStatus) -> WorkerState {
    let failed_init = status
        .init_container_statuses
        .iter()
        .flatten()
        .find_map(|container| {
            let ended = termination(container).filter(|ended| ended.exit_code != 0)?;
            Some(describe_init_failure(container, ended))
        });

    let pod_reason = status.reason.clone().unwrap_or_default();
    match failed_init {
        // A reason of the pod, such as an eviction, is the cause of how its containers ended.
        Some(message) if pod_reason.is_empty() => WorkerState::Ended {
            exit_code: None,
            reason: INIT_CONTAINER_FAILED.to_owned(),
            message,
        },
        _ => WorkerState::Ended {
            exit_code: None,
            reason: pod_reason,
            message: status.message.clone().unwrap_or_default(),
        },
    }
}

fn describe_init_failure(container: &ContainerStatus, ended: &ContainerStateTerminated) -> String {
    let details = [&ended.reason, &ended.message];
    let details: Vec<_> = details
        .into_iter()
        .flatten()
        .map(|text| text.trim())
        .collect();
    format!(
        "init container {} ended with exit code {} ({})",
        container.name,
        ended.exit_code,
        details.join(": ")
    )
}

fn live_state(container: &ContainerStatus, status: &PodStatus) -> Option<WorkerState> {
    let state = container.state.as_ref()?;
    if state.running.is_some() {
        return Some(WorkerState::Running);
    }

    let waiting = state.waiting.as_ref()?;
    let mut inits = status.init_container_statuses.iter().flatten();
    if let Some(init) = inits.find_map(waiting_init_container) {
        return Some(init);
    }

    Some(WorkerState::Waiting {
        reason: waiting.reason.clone().unwrap_or_default(),
        message: waiting.message.clone().unwrap_or_default(),
    })
}

/// Why an init container is not done, with its reason as `kubectl get pods` has it.
fn waiting_init_container(container: &ContainerStatus) -> Option<WorkerState> {
    let state = container.state.as_ref()?;
    // One that started is a sidecar, or still works: the pod goes on by itself.
    if state.running.is_some() && container.started != Some(true) {
        return Some(WorkerState::Waiting {
            reason: "PodInitializing".to_owned(),
            message: format!("init container {} is running", container.name),
        });
    }

    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    if matches!(reason, "" | "PodInitializing" | "ContainerCreating") {
        return None;
    }

    let message = waiting.message.as_deref().unwrap_or_default();
    Some(WorkerState::Waiting {
        reason: format!("Init:{reason}"),
        message: format!("init container {}: {message}", container.name),
    })
}

fn pod_condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster_fixtures::time_at;

    /// A pod with these containers' statuses, as the kubelet sorts them.
    fn read(status: Value) -> WorkerPod {
        let pod = json!({
            "metadata": {
                "name": "muge-align-1-0",
                "labels": {names::LABEL_STAGE: "align", names::LABEL_ATTEMPT: "1"},
            },
            "spec": {"containers": [
                {"name": "istio-proxy", "image": "proxy:1"},
                {"name": "trainer", "image": "cnclip/trainer:test"},
            ]},
            "status": status,
        });

        parse_worker_pod(&serde_json::from_value(pod).unwrap()).unwrap()
    }

    fn container(name: &str, state: Value) -> Value {
        json!({
            "name": name, "image": name, "imageID": format!("{name}@sha256:01"), "ready": false,
            "restartCount": 0, "state": state,
        })
    }

    fn running() -> Value {
        json!({"running": {}})
    }

    fn terminated(exit_code: i32, reason: &str, message: &str) -> Value {
        json!({"terminated": {
            "exitCode": exit_code, "reason": reason, "message": message,
            "finishedAt": "2027-01-15T08:00:00Z",
        }})
    }

    fn waiting(reason: &str) -> Value {
        json!({"waiting": {"reason": reason, "message": "why"}})
    }

    fn ended(exit_code: impl Into<Option<i32>>, reason: &str, message: &str) -> WorkerState {
        WorkerState::Ended {
            exit_code: exit_code.into(),
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn the_trainer_is_found_among_injected_containers() {
        let rows = [
            (running(), WorkerState::Running),
            (terminated(65, "Error", "bad"), ended(65, "Error", "bad")),
            (terminated(0, "Completed", ""), ended(0, "Completed", "")),
            (
                waiting("ImagePullBackOff"),
                WorkerState::Waiting {
                    reason: "ImagePullBackOff".to_owned(),
                    message: "why".to_owned(),
                },
            ),
        ];

        for (trainer, expected) in rows {
            let pod = read(json!({"phase": "Running", "containerStatuses": [
                container("istio-proxy", running()),
                container("trainer", trainer),
            ]}));

            let has_ended = matches!(expected, WorkerState::Ended { .. });
            assert_eq!(pod.state, expected);
            assert_eq!(pod.image, "cnclip/trainer:test");
            assert_eq!(pod.image_id.as_deref(), Some("trainer@sha256:01"));
            assert_eq!(pod.ended_at.is_some(), has_ended, "{expected:?}");
            assert!(pod.sidecar_running && pod.is_alive(time_at(0)));
        }
    }

    #[test]
    fn a_pod_is_alive_until_its_last_container_has_ended() {
        let done = || terminated(0, "Completed", "");
        let rows = [
            ("Running", running(), true),
            ("Running", done(), false),
            // A phase that ends the pod wins over what the kubelet said last.
            ("Failed", running(), false),
        ];

        for (phase, sidecar, expected) in rows {
            let pod = read(json!({"phase": phase, "containerStatuses": [
                container("istio-proxy", sidecar.clone()),
                container("trainer", done()),
            ]}));

            assert_eq!(pod.is_alive(time_at(0)), expected, "{phase} {sidecar}");
        }
    }

    #[test]
    fn a_pod_that_an_init_container_ended_has_ended() {
        let status = |reason: Option<&str>| {
            json!({"phase": "Failed", "reason": reason, "message": "of the pod",
                "initContainerStatuses": [
                    container("copy", terminated(0, "Completed", "")),
                    container("vault-agent-init", terminated(2, "Error", "no token\n")),
                ],
                "containerStatuses": [container("trainer", waiting("PodInitializing"))],
            })
        };

        let message = "init container vault-agent-init ended with exit code 2 (Error: no token)";
        assert_eq!(
            read(status(None)).state,
            ended(None, INIT_CONTAINER_FAILED, message)
        );
        assert_eq!(
            read(status(Some("Evicted"))).state,
            ended(None, "Evicted", "of the pod")
        );
    }

    #[test]
    fn a_pod_whose_node_was_lost_has_ended_whatever_its_containers_did_last() {
        let pod = read(
            json!({"phase": "Failed", "reason": "NodeLost", "containerStatuses": [
                container("trainer", running()),
            ]}),
        );
        assert_eq!(pod.state, ended(None, "NodeLost", ""));
    }

    #[test]
    fn an_init_container_that_waits_is_named() {
        let rows = [
            (
                waiting("ImagePullBackOff"),
                "Init:ImagePullBackOff",
                "init container copy: why",
            ),
            (
                running(),
                "PodInitializing",
                "init container copy is running",
            ),
            (waiting("PodInitializing"), "PodInitializing", "why"),
            (terminated(0, "Completed", ""), "PodInitializing", "why"),
        ];

        for (init, reason, message) in rows {
            let pod = read(json!({"phase": "Pending",
                "initContainerStatuses": [container("copy", init)],
                "containerStatuses": [container("trainer", waiting("PodInitializing"))],
            }));

            let expected = WorkerState::Waiting {
                reason: reason.to_owned(),
                message: message.to_owned(),
            };

            assert_eq!(pod.state, expected);
        }
    }
}
