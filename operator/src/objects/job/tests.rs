use cnclip_crds::rendezvous_secret::RendezvousSecret;
use k8s_openapi::api::core::v1::Container;
use serde_json::json;

use crate::{manifest_fixtures, observed::ObservedState, resolve::RunResource};

fn job(run: &impl RunResource, observed: &ObservedState) -> serde_json::Value {
    json!(manifest_fixtures::attempt_objects(run, observed).job)
}

#[test]
fn pods_are_restricted_and_only_the_operator_restarts_them() {
    let job = job(
        &manifest_fixtures::sample_training(),
        &ObservedState::default(),
    );
    let rows = [
        ("/metadata/name", json!("muge-align-3")),
        ("/metadata/ownerReferences/0/uid", json!("u-1")),
        ("/spec/backoffLimit", json!(0)),
        ("/spec/podReplacementPolicy", json!("Failed")),
        ("/spec/template/spec/restartPolicy", json!("Never")),
        (
            "/spec/template/spec/automountServiceAccountToken",
            json!(false),
        ),
        (
            "/spec/template/spec/securityContext/runAsNonRoot",
            json!(true),
        ),
        (
            "/spec/template/spec/securityContext/seccompProfile/type",
            json!("RuntimeDefault"),
        ),
        (
            "/spec/template/spec/containers/0/securityContext/allowPrivilegeEscalation",
            json!(false),
        ),
        (
            "/spec/template/spec/containers/0/securityContext/capabilities/drop",
            json!(["ALL"]),
        ),
        (
            "/spec/template/spec/containers/0/securityContext/readOnlyRootFilesystem",
            json!(true),
        ),
        (
            "/spec/template/spec/containers/0/envFrom",
            json!([{"secretRef": {"name": "s3", "optional": false}}]),
        ),
        (
            "/spec/template/spec/containers/0/args",
            json!(["train", "--config", "/etc/cnclip/run.json"]),
        ),
        (
            "/spec/template/spec/containers/0/resources",
            json!({"limits": {"cpu": "2", "memory": "4Gi"}}),
        ),
        (
            "/spec/template/metadata/labels/cnclip.dev~1attempt",
            json!("3"),
        ),
        (
            "/spec/template/metadata/annotations/prometheus.io~1port",
            json!("8080"),
        ),
    ];

    for (path, expected) in rows {
        assert_eq!(job.pointer(path), Some(&expected), "{path}");
    }
}

/// The value of the variable, if there is one.
fn secret_of(workers: serde_json::Value, observed: &ObservedState) -> Option<String> {
    let run = manifest_fixtures::sample_training_with("/workers", workers);
    let mut job = manifest_fixtures::attempt_objects(&run, observed).job;
    super::secret_variable(&mut job)?.value.clone()
}

#[test]
fn several_workers_share_the_drawn_secret_and_one_has_none() {
    let observed = ObservedState {
        drawn_secret: Some(RendezvousSecret::from_random([7; 32])),
        ..ObservedState::default()
    };

    let workers = |replicas| json!({"accelerator": "None", "replicas": replicas});
    assert_eq!(secret_of(workers(1), &observed), None);
    assert_eq!(secret_of(workers(2), &observed), Some("07".repeat(32)));

    // A container that was put before the trainer's has none of its own, and hides none.
    let run = manifest_fixtures::sample_training_with("/workers", workers(2));
    let mut job = manifest_fixtures::attempt_objects(&run, &observed).job;
    let pod = job.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    let injected = Container {
        name: "istio-proxy".to_owned(),
        ..Container::default()
    };

    pod.containers.insert(0, injected);
    assert!(super::secret_variable(&mut job).is_some());

    // Debug output of what planning sees does not show it.
    assert!(!format!("{observed:?}").contains("0707"));
}

#[test]
fn gpus_are_asked_for_by_number_of_devices() {
    let run = manifest_fixtures::sample_training_with("/workers", json!({"devices": 2}));
    let container = "/spec/template/spec/containers/0";
    let found = job(&run, &ObservedState::default());
    let limits = found.pointer(&format!("{container}/resources/limits"));
    assert_eq!(limits, Some(&json!({"nvidia.com/gpu": "2"})));
    let image = found.pointer(&format!("{container}/image"));

    assert_eq!(image, Some(&json!("cnclip/trainer-cuda:test")));
}

#[test]
fn a_queue_is_named_on_the_job_and_not_on_its_pods() {
    let run = manifest_fixtures::sample_training_with("/queueName", json!("night"));
    let job = job(&run, &ObservedState::default());
    let queue = "labels/kueue.x-k8s.io~1queue-name";
    assert_eq!(
        job.pointer(&format!("/metadata/{queue}")),
        Some(&json!("night"))
    );

    assert_eq!(
        job.pointer(&format!("/spec/template/metadata/{queue}")),
        None
    );
}

#[test]
fn a_lost_node_is_left_soon_unless_the_user_wants_otherwise() {
    let own = json!({"accelerator": "None", "tolerations": [
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 600}]});
    let job = job(
        &manifest_fixtures::sample_training_with("/workers", own),
        &ObservedState::default(),
    );

    let tolerations = job
        .pointer("/spec/template/spec/tolerations")
        .unwrap()
        .as_array()
        .unwrap();

    let seconds: Vec<_> = tolerations
        .iter()
        .map(|one| one["tolerationSeconds"].as_i64())
        .collect();

    assert_eq!(seconds, [Some(600), Some(30)]);
}

#[test]
fn an_evaluations_job_says_what_it_scores() {
    let training = Some(manifest_fixtures::sample_training());
    let mut run = manifest_fixtures::sample_evaluation();
    run.status = Some(serde_json::from_value(json!({"checkpoint": "s3://runs/x"})).unwrap());
    let job = job(
        &run,
        &ObservedState {
            training,
            ..ObservedState::default()
        },
    );

    let annotation = "/metadata/annotations/cnclip.dev~1checkpoint";
    assert_eq!(job.pointer(annotation), Some(&json!("s3://runs/x")));
    let args = "/spec/template/spec/containers/0/args/0";
    assert_eq!(job.pointer(args), Some(&json!("evaluate")));
}
