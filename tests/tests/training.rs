//! Trainings from manifest to results: real trainers on a real cluster, with a data set of a dozen images.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use cnclip_crds::{
    evaluation::CnClipEvaluation,
    training::{CnClipTraining, StageState, StageStatus},
};
use cnclip_tests::{
    cluster::{CLUSTER_TIMEOUT, TestCluster, condition_message, find_condition},
    namespace::parse_object,
    operator::run_command,
    testbed::S3Store,
    training::{lengthen_first_stage, tiny_training_spec, upload_dataset},
    wait::wait_until,
};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

fn stage<'a>(training: &'a CnClipTraining, name: &str) -> &'a StageStatus {
    let status = training.status.as_ref().unwrap();
    status
        .stages
        .iter()
        .find(|stage| stage.name == name)
        .unwrap()
}

fn is_finished(training: &CnClipTraining) -> bool {
    let is_true =
        |type_| find_condition(training, type_).is_some_and(|found| found.status == "True");
    is_true("Complete") || is_true("Failed")
}

/// Waits until the training is complete; panics with the message if it failed.
async fn wait_for_completion(cluster: &TestCluster) -> CnClipTraining {
    let training = cluster.wait_for_training("the end", is_finished).await;
    let failed = find_condition(&training, "Failed").unwrap();
    assert_eq!(failed.status, "False", "{}", failed.message);
    training
}

#[tokio::test]
async fn a_training_and_its_evaluation_write_checkpoints_recalls_and_a_report() {
    let cluster = TestCluster::connect().await;
    let data = upload_dataset(&cluster);
    cluster
        .create_training(tiny_training_spec(&cluster, &data, "run", 20))
        .await;
    let evaluation: CnClipEvaluation =
        parse_object(json!({"metadata": {"name": "score"}, "spec": {
            "checkpoint": {"trainingName": "run"},
            "tasks": [{"name": "golden", "retrieval": {"dataset": data}}],
        }}))
        .unwrap();

    let evaluations: Api<CnClipEvaluation> = cluster.api();
    evaluations
        .create(&PostParams::default(), &evaluation)
        .await
        .unwrap();

    let training = wait_for_completion(&cluster).await;
    for name in ["align", "pretrain"] {
        let stage = stage(&training, name);
        assert_eq!(
            (stage.state, stage.attempt, stage.step),
            (StageState::Succeeded, 1, 20)
        );

        assert_eq!(stage.samples_seen, 20 * 12);
        assert!(stage.loss.is_some() && stage.best.is_some() && stage.peak_rss_bytes.is_some());
    }

    let checkpoints = &training.status.as_ref().unwrap().checkpoints;
    assert!(
        checkpoints[0].uri.contains("/run/pretrain/checkpoints/"),
        "{checkpoints:?}"
    );

    let scored = wait_until(
        "the scores",
        CLUSTER_TIMEOUT,
        async || Ok(evaluations.get("score").await?),
        |evaluation| {
            evaluation.status.as_ref().is_some_and(|status| {
                status
                    .conditions
                    .iter()
                    .any(|c| c.type_ == "Complete" && c.status == "True")
            })
        },
    )
    .await
    .unwrap()
    .status
    .unwrap();

    assert_eq!((scored.results.len(), scored.results[0].images), (1, 12));
    let best: f64 = scored.results[0]
        .retrieval
        .as_ref()
        .unwrap()
        .recalls
        .as_ref()
        .unwrap()
        .text_to_image
        .r10
        .parse()
        .unwrap();

    assert!(
        best > 50.0,
        "ten of twelve images must contain most of the relevant ones: {best}"
    );

    assert!(scored.report.unwrap().ends_with("report.html"));
}

/// The trainer processes of a pod, as paths in the machine's `/proc`.
fn trainer_processes(pod: &Pod) -> Vec<PathBuf> {
    let uid = pod.metadata.uid.clone().unwrap();
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()));

    let read = |path: &Path, name: &str| std::fs::read(path.join(name)).unwrap_or_default();
    processes
        .filter(|path| String::from_utf8_lossy(&read(path, "cgroup")).contains(&uid))
        .filter(|path| {
            read(path, "cmdline")
                .windows(6)
                .any(|part| part == b"cnclip")
        })
        .collect()
}

/// Whether the first stage has made ten steps.
fn has_made_ten_steps(run: &CnClipTraining) -> bool {
    let stages = run.status.as_ref().map(|status| &status.stages);
    stages.is_some_and(|stages| {
        stages
            .iter()
            .any(|s| s.name == "align" && s.state == StageState::Running && s.step >= 10)
    })
}

/// Kills a worker by its index with SIGKILL, as the OOM killer would.
async fn kill_worker(cluster: &TestCluster, worker: &str) {
    let label = format!("batch.kubernetes.io/job-completion-index={worker}");
    let pods = cluster
        .api::<Pod>()
        .list(&ListParams::default().labels(&label))
        .await
        .unwrap();

    let killed: Vec<_> = pods.iter().flat_map(trainer_processes).collect();
    assert!(!killed.is_empty(), "worker {worker} had already exited");
    for process in killed {
        let pid = process.file_name().unwrap().to_string_lossy().into_owned();
        run_command(Command::new("kill").args(["-9", &pid]), "").unwrap();
    }
}

#[tokio::test]
async fn two_workers_of_which_one_is_killed_give_the_result_of_one_worker() {
    let steps = 20;
    let single = TestCluster::connect().await;
    single
        .create_training(lengthen_first_stage(tiny_training_spec(
            &single,
            &upload_dataset(&single),
            "run",
            steps,
        )))
        .await;

    let cluster = TestCluster::connect().await;
    let mut spec = lengthen_first_stage(tiny_training_spec(
        &cluster,
        &upload_dataset(&cluster),
        "run",
        steps,
    ));
    spec["workers"]["replicas"] = json!(2);
    cluster.create_training(spec).await;
    let running = cluster
        .wait_for_training("ten steps", has_made_ten_steps)
        .await;

    assert!(
        condition_message(&running, "Running").ends_with("2 of 2 workers"),
        "{running:?}"
    );

    kill_worker(&cluster, "1").await;
    let training = wait_for_completion(&cluster).await;
    let expected = wait_for_completion(&single).await;
    let status = training.status.as_ref().unwrap();
    let failure = status.last_failure.as_ref().unwrap();

    assert_eq!(
        (failure.class.as_str(), failure.exit_code),
        ("Killed", Some(137)),
        "{failure:?}"
    );

    assert!(
        failure.message.starts_with("worker 1: pod run-align-1-1-"),
        "{}",
        failure.message
    );

    assert_eq!(
        (status.restarts.total, stage(&training, "align").attempt),
        (1, 2)
    );

    for name in ["align", "pretrain"] {
        let expected = stage(&expected, name);
        let found = stage(&training, name);
        assert_eq!(found.samples_seen, expected.samples_seen, "{name}");
        let loss = |stage: &StageStatus| stage.loss.as_ref().unwrap().parse::<f64>().unwrap();
        let expected_loss = loss(expected);
        let found_loss = loss(found);

        // Two ranks sum in another order than one.
        assert!(
            (expected_loss - found_loss).abs() < 1e-3,
            "{name}: found {found_loss}, expected {expected_loss}"
        );
    }
}

#[tokio::test]
async fn a_killed_trainer_gives_the_result_of_an_uninterrupted_one() {
    let steps = 30;
    let uninterrupted = TestCluster::connect().await;
    uninterrupted
        .create_training(lengthen_first_stage(tiny_training_spec(
            &uninterrupted,
            &upload_dataset(&uninterrupted),
            "run",
            steps,
        )))
        .await;

    let expected = wait_for_completion(&uninterrupted).await;

    let cluster = TestCluster::connect().await;
    cluster
        .create_training(lengthen_first_stage(tiny_training_spec(
            &cluster,
            &upload_dataset(&cluster),
            "run",
            steps,
        )))
        .await;

    cluster
        .wait_for_training("ten steps", has_made_ten_steps)
        .await;
    kill_worker(&cluster, "0").await;
    let training = wait_for_completion(&cluster).await;
    let status = training.status.as_ref().unwrap();
    let failure = status.last_failure.as_ref().unwrap();

    assert_eq!(
        (failure.exit_code, failure.stage.as_str()),
        (Some(137), "align")
    );

    assert_eq!(
        (status.restarts.total, stage(&training, "align").attempt),
        (1, 2)
    );

    for name in ["align", "pretrain"] {
        let expected = stage(&expected, name);
        let found = stage(&training, name);
        assert_eq!(
            (&found.loss, found.samples_seen),
            (&expected.loss, expected.samples_seen),
            "{name}"
        );

        assert_eq!(found.best, expected.best, "{name}");
    }
}

#[tokio::test]
async fn a_stage_that_does_not_fit_into_memory_fails_before_its_first_step() {
    let cluster = TestCluster::connect().await;
    let mut spec = tiny_training_spec(&cluster, &upload_dataset(&cluster), "run", 10);
    spec["workers"]["resources"] = json!({"limits": {"memory": "64Mi"}});
    cluster.create_training(spec).await;
    let training = cluster.wait_for_training("the end", is_finished).await;
    let message = condition_message(&training, "Failed");

    assert!(
        message.contains("of memory for 12 samples at once"),
        "{message}"
    );
    assert!(message.contains("and there are 64 MiB"), "{message}");
    assert_eq!(
        training.status.as_ref().unwrap().restarts.total,
        0,
        "{message}"
    );
}

#[tokio::test]
async fn unusable_inputs_are_named_and_not_retried() {
    let wrong_digest = "0".repeat(64);
    let rows: [(&str, &str, Value, &str); 4] = [
        (
            "missing data",
            "/datasets/0/uri",
            json!("s3://cnclip/nothing/here/"),
            "index.json",
        ),
        (
            "a missing bucket",
            "/datasets/0/uri",
            json!("s3://no-such-bucket/x/"),
            "no-such-bucket",
        ),
        (
            "invalid credentials",
            "/artifacts/credentials/secretName",
            json!("wrong"),
            "s3://cnclip/",
        ),
        (
            "a vocabulary with another digest",
            "/model/vocabulary",
            json!({"uri": "file:///usr/share/cnclip/vocab.txt", "sha256": wrong_digest}),
            &wrong_digest,
        ),
    ];

    for (name, pointer, value, expected) in rows {
        let cluster = TestCluster::connect().await;
        let S3Store {
            endpoint, region, ..
        } = &cluster.testbed.s3;

        let wrong: Secret = parse_object(json!({"metadata": {"name": "wrong"}, "stringData": {
            "AWS_ENDPOINT": endpoint, "AWS_REGION": region, "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}}))
        .unwrap();

        cluster
            .api()
            .create(&PostParams::default(), &wrong)
            .await
            .unwrap();

        let mut spec = tiny_training_spec(&cluster, "s3://cnclip/nothing/", "run", 10);
        match spec.pointer_mut(pointer) {
            Some(field) => *field = value,
            None => spec["model"]["vocabulary"] = value,
        }

        cluster.create_training(spec).await;
        let training = cluster.wait_for_training(name, is_finished).await;
        let message = condition_message(&training, "Failed");
        assert!(message.contains(expected), "{name}: {message}");
        assert_eq!(
            training.status.as_ref().unwrap().restarts.total,
            0,
            "{name}: {message}"
        );
    }
}
