//! The operator on a real cluster, without a trainer at work: what it makes, what it tells, what it
//! leaves behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
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

/// Workers that never run: their image is nowhere.
fn lost_image() -> Value {
    json!({"accelerator": "None", "image": "cnclip.invalid/trainer:lost"})
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_named_and_given_up_in_time() {
    let house = TestCluster::connect().await;
    let mut spec = spec(lost_image());
    spec["startDeadlineSeconds"] = json!(90);
    house.create_training(spec).await;
    let told = house
        .wait_for_training("the cause", |run| {
            has_condition(run, "Running", "False", "ImagePullFailed")
        })
        .await;

    let words = condition_message(&told, "Running");
    assert!(
        words.contains("cnclip.invalid/trainer:lost") && words.contains("spec.workers.image"),
        "{words}"
    );

    let ended = house
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
        "no retry was burnt"
    );

    house.wait_for_only::<Job>(&[]).await;
    let reasons = wait_until(
        "the events",
        CLUSTER_TIMEOUT,
        || house.event_reasons(),
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
async fn a_secret_that_is_missing_is_named_and_waited_for() {
    let house = TestCluster::connect().await;
    let mut spec = spec(json!({"accelerator": "None"}));
    spec["artifacts"]["credentials"]["secretName"] = json!("forgotten");
    house.create_training(spec).await;
    // A kubelet that is slow to look says first that it could not, then that there is none.
    let words = "secret \"forgotten\" not found. Create Secret forgotten";
    let told = |run: &_| {
        has_condition(run, "Running", "False", "CredentialsMissing")
            && condition_message(run, "Running").contains(words)
    };

    house.wait_for_training("the cause", told).await;
}

#[tokio::test]
async fn an_image_without_the_trainer_is_not_tried_again() {
    let house = TestCluster::connect().await;
    let (bed, _) = install_operator().await.unwrap();
    house
        .create_training(spec(
            json!({"accelerator": "None", "image": bed.images.operator}),
        ))
        .await;

    let ended = house
        .wait_for_training("the end", |run| {
            has_condition(run, "Failed", "True", "Image")
        })
        .await;

    assert_eq!(ended.status.unwrap().stages[0].attempt, 1);
}

#[tokio::test]
async fn pods_that_find_no_node_say_what_is_asked_too_much() {
    let house = TestCluster::connect().await;
    house
        .create_training(spec(json!({"replicas": 2, "devices": 2})))
        .await;

    let told = house
        .wait_for_training("the cause", |run| {
            has_condition(run, "Running", "False", "Unschedulable")
        })
        .await;

    assert!(
        condition_message(&told, "Running").contains("Insufficient nvidia.com/gpu"),
        "{}",
        condition_message(&told, "Running")
    );
}

#[tokio::test]
async fn a_run_held_back_has_no_pods_and_goes_on_as_the_next_attempt() {
    let house = TestCluster::connect().await;
    house.create_training(spec(lost_image())).await;
    house.wait_for_only::<Job>(&["run-align-1"]).await;
    house.patch_training(json!({"suspend": true})).await;
    let held = house
        .wait_for_training("rest", |run| {
            has_condition(run, "Suspended", "True", "ByUser")
        })
        .await;

    assert_eq!(held.status.unwrap().stages[0].state, StageState::Suspended);
    house.wait_for_only::<Job>(&[]).await;
    house.wait_for_only::<Pod>(&[]).await;
    house.patch_training(json!({"suspend": false})).await;
    house.wait_for_only::<Job>(&["run-align-2"]).await;
    let resumed = house
        .wait_for_training("work", |run| {
            has_condition(run, "Suspended", "False", "NotSuspended")
        })
        .await;

    assert_eq!(resumed.status.unwrap().restarts.total, 0);
}

#[tokio::test]
async fn a_job_that_somebody_deletes_is_made_again() {
    let house = TestCluster::connect().await;
    house.create_training(spec(lost_image())).await;
    house
        .wait_for_training("its pod", |run| {
            has_condition(run, "Running", "False", "ImagePullFailed")
        })
        .await;

    house
        .api::<Job>()
        .delete("run-align-1", &DeleteParams::background())
        .await
        .unwrap();

    house.wait_for_only::<Job>(&["run-align-2"]).await;
    let again = house
        .wait_for_training("the restart", |run| {
            run.status
                .as_ref()
                .is_some_and(|status| status.restarts.infrastructure == 1)
        })
        .await;

    assert_eq!(
        again.status.unwrap().last_failure.unwrap().class,
        "JobDeleted"
    );
}

#[tokio::test]
async fn a_deleted_run_leaves_nothing_behind() {
    let house = TestCluster::connect().await;
    house.create_training(spec(lost_image())).await;
    house.wait_for_only::<Job>(&["run-align-1"]).await;
    house.wait_for_only::<Service>(&["run-align-1"]).await;
    house.wait_for_only::<ConfigMap>(&["run-align-1"]).await;
    house
        .api::<CnClipTraining>()
        .delete("run", &DeleteParams::default())
        .await
        .unwrap();

    house.wait_for_only::<Job>(&[]).await;
    house.wait_for_only::<Service>(&[]).await;
    house.wait_for_only::<ConfigMap>(&[]).await;
    house.wait_for_only::<Pod>(&[]).await;
}

#[tokio::test]
async fn a_run_that_takes_the_name_of_a_deleted_one_begins_afresh() {
    let house = TestCluster::connect().await;
    house.create_training(spec(lost_image())).await;
    house.wait_for_only::<Job>(&["run-align-1"]).await;
    house
        .api::<CnClipTraining>()
        .delete("run", &DeleteParams::default())
        .await
        .unwrap();

    house.create_training(spec(lost_image())).await;
    let begun = |run: &CnClipTraining| {
        run.status
            .as_ref()
            .is_some_and(|status| status.stages.iter().any(|stage| stage.attempt > 0))
    };

    let run = house.wait_for_training("its first attempt", begun).await;
    let job = house.api::<Job>().get("run-align-1").await.unwrap();
    assert_eq!(job.owner_references()[0].uid, run.uid().unwrap());
    let status = run.status.unwrap();
    assert_eq!((status.stages[0].attempt, status.restarts.total), (1, 0));
}

#[tokio::test]
async fn an_ended_run_goes_when_its_time_is_over() {
    let house = TestCluster::connect().await;
    let (bed, _) = install_operator().await.unwrap();
    let mut spec = spec(json!({"accelerator": "None", "image": bed.images.operator}));
    spec["ttlSecondsAfterFinished"] = json!(2);
    house.create_training(spec).await;
    let trainings = house.api::<CnClipTraining>();

    wait_until(
        "its end",
        CLUSTER_TIMEOUT,
        async || Ok(trainings.get_opt("run").await?),
        Option::is_none,
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn an_evaluation_says_which_training_it_waits_for() {
    let house = TestCluster::connect().await;
    let evaluation: CnClipEvaluation =
        parse_object(json!({"metadata": {"name": "scores"}, "spec": {
            "checkpoint": {"trainingName": "run"},
            "tasks": [{"name": "valid", "retrieval": {"dataset": "s3://cnclip/nowhere/"}}],
        }}))
        .unwrap();

    let evaluations = house.api::<CnClipEvaluation>();
    evaluations
        .create(&PostParams::default(), &evaluation)
        .await
        .unwrap();

    let waits = async |reason: &str| {
        let ask = async || Ok(evaluations.get("scores").await?);
        let running = |run: &CnClipEvaluation| {
            let conditions = run
                .status
                .iter()
                .flat_map(|status| status.conditions.iter());

            conditions
                .clone()
                .any(|found| found.type_ == "Running" && found.reason == reason)
        };

        wait_until(reason, CLUSTER_TIMEOUT, ask, running)
            .await
            .unwrap()
    };

    waits("TrainingMissing").await;
    house.create_training(spec(lost_image())).await;
    waits("TrainingNotComplete").await;
}

#[tokio::test]
async fn the_operator_may_not_read_secrets_nor_do_anything_to_everything() {
    let (_, client) = install_operator().await.unwrap();
    let allowed = async |group: &str, resource: &str, verb: &str| {
        let review: SubjectAccessReview = parse_object(json!({"metadata": {}, "spec": {
            "user": format!("system:serviceaccount:{NAMESPACE}:{RELEASE}"),
            "resourceAttributes": {"group": group, "resource": resource, "verb": verb, "namespace": "default"},
        }})).unwrap();

        let answer = Api::all(client.clone())
            .create(&PostParams::default(), &review)
            .await
            .unwrap();

        answer.status.unwrap().allowed
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

/// The replica that leads.
async fn leader(client: &Client) -> anyhow::Result<String> {
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    let lease = leases.get_opt("cnclip-operator").await?;
    Ok(lease
        .and_then(|lease| lease.spec?.holder_identity)
        .unwrap_or_default())
}

#[tokio::test]
async fn an_operator_tells_its_numbers_and_hands_over_without_touching_what_it_made() {
    let house = TestCluster::connect().await;
    let client = &house.client;
    house.create_training(spec(lost_image())).await;
    house.wait_for_only::<Job>(&["run-align-1"]).await;
    let made = house.api::<Job>().get("run-align-1").await.unwrap().uid();

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
    let other = |name: &String| !name.is_empty() && *name != first;
    wait_until(
        "another leader",
        Duration::from_secs(20),
        || leader(client),
        other,
    )
    .await
    .unwrap();

    house.patch_training(json!({"reportEverySteps": 5})).await;
    let seen = |run: &CnClipTraining| {
        run.status
            .as_ref()
            .is_some_and(|status| status.observed_generation == Some(2))
    };

    house.wait_for_training("the new leader's look", seen).await;
    house.wait_for_only::<Job>(&["run-align-1"]).await;
    assert_eq!(
        house.api::<Job>().get("run-align-1").await.unwrap().uid(),
        made
    );
}

#[tokio::test]
async fn every_switch_of_the_chart_gives_objects_that_the_api_server_takes() {
    use std::process::Command;
    let (bed, _) = install_operator().await.unwrap();
    let helm = |arguments: &[&str]| {
        let mut command = Command::new(&bed.helm);
        operator::run_command(command.args(arguments).arg(operator::chart_folder()), "").unwrap()
    };

    helm(&["lint", "--strict"]);
    let switches = [
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

    for arguments in [&[][..], &switches[..]] {
        let rendered = helm(&[&["template", "probe", "--namespace=default"], arguments].concat());
        assert_eq!(rendered.matches("helm.sh/resource-policy: keep").count(), 2);
        let mut kubectl = Command::new(&bed.kubectl);
        let dry = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--filename",
            "-",
        ];

        operator::run_command(
            kubectl.args(dry).env("KUBECONFIG", &bed.kubeconfig),
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
async fn a_value_that_the_chart_does_not_know_is_refused() {
    let (bed, _) = install_operator().await.unwrap();
    for value in [
        "replica=2",
        "image.operator=no-tag",
        "progressIntervalSeconds=0",
        "monitoring.interval=fast",
    ] {
        let mut command = std::process::Command::new(&bed.helm);
        let refused = operator::run_command(
            command
                .args(["template", "probe", "--set", value])
                .arg(operator::chart_folder()),
            "",
        );
        let words = refused.expect_err(value).to_string();
        assert!(words.contains("schema"), "{value}: {words}");
    }
}
