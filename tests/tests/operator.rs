//! The operator on a real cluster, without running trainers: its objects, conditions, events and metrics.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::time::Duration;

use cnclip_crds::{
    evaluation::CnClipEvaluation,
    training::{CnClipTraining, StageState},
};
use cnclip_tests::{
    cluster::{CLUSTER_TIMEOUT, TestCluster, condition_message, has_condition},
    namespace::parse_object,
    operator::{self, NAMESPACE, RELEASE, install_operator},
    wait::wait_until,
};
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview,
    batch::v1::Job,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Pod, Service},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

fn spec(workers: Value) -> Value {
    json!({
        "model": {"architecture": "ViT-B-16"},
        "datasets": [{"name": "pairs", "uri": "s3://cnclip/nowhere/"}],
        "stages": [{"name": "align", "dataset": "pairs", "steps": 100, "globalBatchSize": 32, "learningRate": "1e-4"}],
        "workers": workers,
        "artifacts": {"uri": "s3://cnclip/runs/nowhere/", "credentials": {"secretName": "s3"}},
    })
}

/// Workers that never start, because their image cannot be pulled.
fn missing_image() -> Value {
    json!({"accelerator": "None", "image": "cnclip.invalid/trainer:lost"})
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_named_and_the_run_fails_at_its_start_deadline() {
    let cluster = TestCluster::connect().await;
    let mut spec = spec(missing_image());
    spec["startDeadlineSeconds"] = json!(90);
    cluster.create_training(spec).await;
    let waiting = cluster
        .wait_for_training("the cause", |run| {
            has_condition(run, "Running", "False", "ImagePullFailed")
        })
        .await;

    let message = condition_message(&waiting, "Running");
    assert!(
        message.contains("cnclip.invalid/trainer:lost") && message.contains("spec.workers.image"),
        "{message}"
    );

    let ended = cluster
        .wait_for_training("the end", |run| {
            has_condition(run, "Failed", "True", "StartDeadlineExceeded")
        })
        .await;

    assert!(
        condition_message(&ended, "Failed").contains("cnclip.invalid/trainer:lost"),
        "{}",
        condition_message(&ended, "Failed")
    );

    assert_eq!(
        ended.status.unwrap().restarts.total,
        0,
        "an image that cannot be pulled must not count as a retry"
    );

    cluster.wait_for_only::<Job>(&[]).await;
    let reasons = wait_until(
        "the events",
        CLUSTER_TIMEOUT,
        || cluster.event_reasons(),
        |found| found.iter().any(|one| one == "Failed"),
    )
    .await
    .unwrap();

    assert!(
        reasons.iter().any(|reason| reason == "ImagePullFailed"),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn a_missing_secret_is_named_and_waited_for() {
    let cluster = TestCluster::connect().await;
    let mut spec = spec(json!({"accelerator": "None"}));
    spec["artifacts"]["credentials"]["secretName"] = json!("forgotten");
    cluster.create_training(spec).await;
    // A kubelet whose cache is not filled yet reports another error first, then that the Secret does not exist.
    let message = "secret \"forgotten\" not found. Create Secret forgotten";
    let is_reported = |run: &_| {
        has_condition(run, "Running", "False", "CredentialsMissing")
            && condition_message(run, "Running").contains(message)
    };

    cluster.wait_for_training("the cause", is_reported).await;
}

#[tokio::test]
async fn an_image_without_the_trainer_is_not_retried() {
    let cluster = TestCluster::connect().await;
    let (testbed, _) = install_operator().await.unwrap();
    cluster
        .create_training(spec(
            json!({"accelerator": "None", "image": testbed.images.operator}),
        ))
        .await;

    let ended = cluster
        .wait_for_training("the end", |run| {
            has_condition(run, "Failed", "True", "Image")
        })
        .await;

    assert_eq!(ended.status.unwrap().stages[0].attempt, 1);
}

#[tokio::test]
async fn pods_that_fit_no_node_report_the_insufficient_resource() {
    let cluster = TestCluster::connect().await;
    cluster
        .create_training(spec(json!({"replicas": 2, "devices": 2})))
        .await;

    let waiting = cluster
        .wait_for_training("the cause", |run| {
            has_condition(run, "Running", "False", "Unschedulable")
        })
        .await;

    assert!(
        condition_message(&waiting, "Running").contains("Insufficient nvidia.com/gpu"),
        "{}",
        condition_message(&waiting, "Running")
    );
}

#[tokio::test]
async fn a_suspended_run_has_no_pods_and_resumes_as_the_next_attempt() {
    let cluster = TestCluster::connect().await;
    cluster.create_training(spec(missing_image())).await;
    cluster.wait_for_only::<Job>(&["run-align-1"]).await;
    cluster.patch_training(json!({"suspend": true})).await;
    let suspended = cluster
        .wait_for_training("the suspension", |run| {
            has_condition(run, "Suspended", "True", "ByUser")
        })
        .await;

    assert_eq!(
        suspended.status.unwrap().stages[0].state,
        StageState::Suspended
    );
    cluster.wait_for_only::<Job>(&[]).await;
    cluster.wait_for_only::<Pod>(&[]).await;
    cluster.patch_training(json!({"suspend": false})).await;
    cluster.wait_for_only::<Job>(&["run-align-2"]).await;
    let resumed = cluster
        .wait_for_training("the resumption", |run| {
            has_condition(run, "Suspended", "False", "NotSuspended")
        })
        .await;

    assert_eq!(resumed.status.unwrap().restarts.total, 0);
}

#[tokio::test]
async fn a_deleted_job_is_created_again() {
    let cluster = TestCluster::connect().await;
    cluster.create_training(spec(missing_image())).await;
    cluster
        .wait_for_training("its pod", |run| {
            has_condition(run, "Running", "False", "ImagePullFailed")
        })
        .await;

    cluster
        .api::<Job>()
        .delete("run-align-1", &DeleteParams::background())
        .await
        .unwrap();

    cluster.wait_for_only::<Job>(&["run-align-2"]).await;
    let restarted = cluster
        .wait_for_training("the restart", |run| {
            run.status
                .as_ref()
                .is_some_and(|status| status.restarts.infrastructure == 1)
        })
        .await;

    assert_eq!(
        restarted.status.unwrap().last_failure.unwrap().class,
        "JobDeleted"
    );
}

#[tokio::test]
async fn the_objects_of_a_deleted_run_are_deleted() {
    let cluster = TestCluster::connect().await;
    cluster.create_training(spec(missing_image())).await;
    cluster.wait_for_only::<Job>(&["run-align-1"]).await;
    cluster.wait_for_only::<Service>(&["run-align-1"]).await;
    cluster.wait_for_only::<ConfigMap>(&["run-align-1"]).await;
    cluster
        .api::<CnClipTraining>()
        .delete("run", &DeleteParams::default())
        .await
        .unwrap();

    cluster.wait_for_only::<Job>(&[]).await;
    cluster.wait_for_only::<Service>(&[]).await;
    cluster.wait_for_only::<ConfigMap>(&[]).await;
    cluster.wait_for_only::<Pod>(&[]).await;
}

#[tokio::test]
async fn a_run_with_the_name_of_a_deleted_one_starts_from_the_beginning() {
    let cluster = TestCluster::connect().await;
    cluster.create_training(spec(missing_image())).await;
    cluster.wait_for_only::<Job>(&["run-align-1"]).await;
    cluster
        .api::<CnClipTraining>()
        .delete("run", &DeleteParams::default())
        .await
        .unwrap();

    cluster.create_training(spec(missing_image())).await;
    let has_started = |run: &CnClipTraining| {
        run.status
            .as_ref()
            .is_some_and(|status| status.stages.iter().any(|stage| stage.attempt > 0))
    };

    let run = cluster
        .wait_for_training("its first attempt", has_started)
        .await;
    let job = cluster.api::<Job>().get("run-align-1").await.unwrap();
    assert_eq!(job.owner_references()[0].uid, run.uid().unwrap());
    let status = run.status.unwrap();
    assert_eq!((status.stages[0].attempt, status.restarts.total), (1, 0));
}

#[tokio::test]
async fn a_finished_run_is_deleted_after_its_ttl() {
    let cluster = TestCluster::connect().await;
    let (testbed, _) = install_operator().await.unwrap();
    let mut spec = spec(json!({"accelerator": "None", "image": testbed.images.operator}));
    spec["ttlSecondsAfterFinished"] = json!(2);
    cluster.create_training(spec).await;
    let trainings = cluster.api::<CnClipTraining>();

    wait_until(
        "its deletion",
        CLUSTER_TIMEOUT,
        async || Ok(trainings.get_opt("run").await?),
        Option::is_none,
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn an_evaluation_reports_the_training_it_waits_for() {
    let cluster = TestCluster::connect().await;
    let evaluation: CnClipEvaluation =
        parse_object(json!({"metadata": {"name": "scores"}, "spec": {
            "checkpoint": {"trainingName": "run"},
            "tasks": [{"name": "valid", "retrieval": {"dataset": "s3://cnclip/nowhere/"}}],
        }}))
        .unwrap();

    let evaluations = cluster.api::<CnClipEvaluation>();
    evaluations
        .create(&PostParams::default(), &evaluation)
        .await
        .unwrap();

    let wait_for_reason = async |reason: &str| {
        let read = async || Ok(evaluations.get("scores").await?);
        let running = |run: &CnClipEvaluation| {
            let conditions = run
                .status
                .iter()
                .flat_map(|status| status.conditions.iter());

            conditions
                .clone()
                .any(|found| found.type_ == "Running" && found.reason == reason)
        };

        wait_until(reason, CLUSTER_TIMEOUT, read, running)
            .await
            .unwrap()
    };

    wait_for_reason("TrainingMissing").await;
    cluster.create_training(spec(missing_image())).await;
    wait_for_reason("TrainingNotComplete").await;
}

#[tokio::test]
async fn the_operator_has_no_permission_for_secrets_or_wildcards() {
    let (_, client) = install_operator().await.unwrap();
    let allowed = async |group: &str, resource: &str, verb: &str| {
        let review: SubjectAccessReview = parse_object(json!({"metadata": {}, "spec": {
            "user": format!("system:serviceaccount:{NAMESPACE}:{RELEASE}"),
            "resourceAttributes": {"group": group, "resource": resource, "verb": verb, "namespace": "default"},
        }})).unwrap();

        let reviewed = Api::all(client.clone())
            .create(&PostParams::default(), &review)
            .await
            .unwrap();

        reviewed.status.unwrap().allowed
    };

    assert!(allowed("batch", "jobs", "patch").await);
    for (group, resource, verb) in [
        ("", "secrets", "get"),
        ("", "secrets", "list"),
        ("", "secrets", "watch"),
        ("", "secrets", "create"),
        ("", "pods", "delete"),
        ("", "pods/exec", "create"),
        ("", "nodes", "list"),
        ("*", "*", "*"),
        ("rbac.authorization.k8s.io", "clusterroles", "escalate"),
    ] {
        assert!(
            !allowed(group, resource, verb).await,
            "{verb} {resource}.{group}"
        );
    }
}

/// The pod that holds the leader election lease; empty if there is none.
async fn leader(client: &Client) -> anyhow::Result<String> {
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    let lease = leases.get_opt("cnclip-operator").await?;
    Ok(lease
        .and_then(|lease| lease.spec?.holder_identity)
        .unwrap_or_default())
}

#[tokio::test]
async fn a_new_leader_leaves_existing_objects_unchanged() {
    let cluster = TestCluster::connect().await;
    let client = &cluster.client;
    cluster.create_training(spec(missing_image())).await;
    cluster.wait_for_only::<Job>(&["run-align-1"]).await;
    let job_uid = cluster.api::<Job>().get("run-align-1").await.unwrap().uid();

    let first = wait_until(
        "a leader",
        CLUSTER_TIMEOUT,
        || leader(client),
        |name| !name.is_empty(),
    )
    .await
    .unwrap();

    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{first}:8080/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let text = client.request_text(request).await.unwrap();
    assert!(text.contains("cnclip_operator_leader 1"), "{text}");
    let memory = text
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));

    let megabytes = memory.unwrap().parse::<f64>().unwrap() / 1e6;
    assert!(megabytes < 64.0, "{megabytes} MB");

    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    pods.delete(&first, &DeleteParams::default()).await.unwrap();
    let is_other = |name: &String| !name.is_empty() && *name != first;
    wait_until(
        "another leader",
        Duration::from_secs(20),
        || leader(client),
        is_other,
    )
    .await
    .unwrap();

    cluster.patch_training(json!({"reportEverySteps": 5})).await;
    let is_observed = |run: &CnClipTraining| {
        run.status
            .as_ref()
            .is_some_and(|status| status.observed_generation == Some(2))
    };

    cluster
        .wait_for_training("the new leader's reconcile", is_observed)
        .await;
    cluster.wait_for_only::<Job>(&["run-align-1"]).await;
    assert_eq!(
        cluster.api::<Job>().get("run-align-1").await.unwrap().uid(),
        job_uid
    );
}

#[tokio::test]
async fn the_objects_of_every_chart_value_are_accepted_by_the_api_server() {
    use std::process::Command;
    let (testbed, _) = install_operator().await.unwrap();
    let helm = |arguments: &[&str]| {
        let mut command = Command::new(&testbed.helm);
        operator::run_command(command.args(arguments).arg(operator::chart_folder()), "").unwrap()
    };

    helm(&["lint", "--strict"]);
    let values = [
        "--set=podDisruptionBudget.enabled=true",
        "--set=replicas=2",
        "--set=watchNamespace=default",
        "--set=priorityClassName=system-cluster-critical",
        "--set=image.pullSecrets={registry}",
        "--set=extraEnv[0].name=KUBERNETES_SERVICE_HOST,extraEnv[0].value=10.0.0.1",
        "--set=nodeSelector.disk=ssd",
        "--set=podLabels.team=a",
        "--set=serviceAccount.name=other",
    ];

    for arguments in [&[][..], &values[..]] {
        let rendered = helm(&[&["template", "probe", "--namespace=default"], arguments].concat());
        assert_eq!(rendered.matches("helm.sh/resource-policy: keep").count(), 2);
        let mut kubectl = Command::new(&testbed.kubectl);
        let dry_run = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--filename",
            "-",
        ];

        operator::run_command(
            kubectl.args(dry_run).env("KUBECONFIG", &testbed.kubeconfig),
            &rendered,
        )
        .unwrap();
    }

    let monitors = helm(&[
        "template",
        "probe",
        "--set=monitoring.podMonitors=true,monitoring.serviceMonitor=true",
    ]);

    assert_eq!(monitors.matches("kind: PodMonitor").count(), 2);
    assert_eq!(monitors.matches("kind: ServiceMonitor").count(), 1);
}

#[tokio::test]
async fn an_unknown_or_invalid_chart_value_is_rejected() {
    let (testbed, _) = install_operator().await.unwrap();
    for value in [
        "replica=2",
        "image.operator=no-tag",
        "progressIntervalSeconds=0",
        "monitoring.interval=fast",
    ] {
        let mut command = std::process::Command::new(&testbed.helm);
        let result = operator::run_command(
            command
                .args(["template", "probe", "--set", value])
                .arg(operator::chart_folder()),
            "",
        );
        let message = result.expect_err(value).to_string();
        assert!(message.contains("schema"), "{value}: {message}");
    }
}
