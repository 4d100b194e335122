//! Manifest → pods → numbers: real trainers at work in a real cluster, on a data set of a dozen
//! pictures.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
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

fn ended(training: &CnClipTraining) -> bool {
    let is_true =
        |type_| find_condition(training, type_).is_some_and(|found| found.status == "True");
    is_true("Complete") || is_true("Failed")
}

async fn complete(house: &TestCluster) -> CnClipTraining {
    let training = house.wait_for_training("the end", ended).await;
    let failed = find_condition(&training, "Failed").unwrap();
    assert_eq!(failed.status, "False", "{}", failed.message);
    training
}

#[tokio::test]
async fn a_manifest_becomes_checkpoints_recalls_and_a_page() {
    let house = TestCluster::connect().await;
    let data = upload_dataset(&house);
    house
        .create_training(tiny_training_spec(&house, &data, "run", 20))
        .await;
    let evaluation: CnClipEvaluation =
        parse_object(json!({"metadata": {"name": "score"}, "spec": {
            "checkpoint": {"trainingName": "run"},
            "tasks": [{"name": "golden", "retrieval": {"dataset": data}}],
        }}))
        .unwrap();

    let evaluations: Api<CnClipEvaluation> = house.api();
    evaluations
        .create(&PostParams::default(), &evaluation)
        .await
        .unwrap();

    let training = complete(&house).await;
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
        "ten of a dozen pictures hold most answers: {best}"
    );

    assert!(scored.report.unwrap().ends_with("report.html"));
}

/// The processes of a container, as the node's machine numbers them.
fn trainers_of(pod: &Pod) -> Vec<PathBuf> {
    let uid = pod.metadata.uid.clone().unwrap();
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()));

    let reads = |path: &Path, name: &str| std::fs::read(path.join(name)).unwrap_or_default();
    processes
        .filter(|path| String::from_utf8_lossy(&reads(path, "cgroup")).contains(&uid))
        .filter(|path| {
            reads(path, "cmdline")
                .windows(6)
                .any(|part| part == b"cnclip")
        })
        .collect()
}

fn runs_for_a_while(run: &CnClipTraining) -> bool {
    let stages = run.status.as_ref().map(|status| &status.stages);
    stages.is_some_and(|stages| {
        stages
            .iter()
            .any(|s| s.name == "align" && s.state == StageState::Running && s.step >= 10)
    })
}

/// Kills the worker of a number, as a lack of memory or an administrator would.
async fn kill(house: &TestCluster, worker: &str) {
    let label = format!("batch.kubernetes.io/job-completion-index={worker}");
    let pods = house
        .api::<Pod>()
        .list(&ListParams::default().labels(&label))
        .await
        .unwrap();

    let killed: Vec<_> = pods.iter().flat_map(trainers_of).collect();
    assert!(!killed.is_empty(), "worker {worker} has ended by itself");
    for process in killed {
        let pid = process.file_name().unwrap().to_string_lossy().into_owned();
        run_command(Command::new("kill").args(["-9", &pid]), "").unwrap();
    }
}

#[tokio::test]
async fn two_workers_of_which_one_is_killed_end_as_one_that_works_alone() {
    let steps = 20;
    let alone = TestCluster::connect().await;
    alone
        .create_training(lengthen_first_stage(tiny_training_spec(
            &alone,
            &upload_dataset(&alone),
            "run",
            steps,
        )))
        .await;

    let house = TestCluster::connect().await;
    let mut both = lengthen_first_stage(tiny_training_spec(
        &house,
        &upload_dataset(&house),
        "run",
        steps,
    ));
    both["workers"]["replicas"] = json!(2);
    house.create_training(both).await;
    let running = house
        .wait_for_training("a dozen steps", runs_for_a_while)
        .await;

    assert!(
        condition_message(&running, "Running").ends_with("2 of 2 workers"),
        "{running:?}"
    );

    kill(&house, "1").await;
    let training = complete(&house).await;
    let expected = complete(&alone).await;
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
        let there = stage(&expected, name);
        let here = stage(&training, name);
        assert_eq!(here.samples_seen, there.samples_seen, "{name}");
        let loss = |stage: &StageStatus| stage.loss.as_ref().unwrap().parse::<f64>().unwrap();
        let there = loss(there);
        let here = loss(here);

        assert!((there - here).abs() < 1e-3, "{name}: {here} for {there}");
    }
}

#[tokio::test]
async fn a_trainer_killed_at_any_moment_ends_as_one_that_was_not() {
    let steps = 30;
    let straight = TestCluster::connect().await;
    straight
        .create_training(lengthen_first_stage(tiny_training_spec(
            &straight,
            &upload_dataset(&straight),
            "run",
            steps,
        )))
        .await;

    let expected = complete(&straight).await;

    let house = TestCluster::connect().await;
    house
        .create_training(lengthen_first_stage(tiny_training_spec(
            &house,
            &upload_dataset(&house),
            "run",
            steps,
        )))
        .await;

    house
        .wait_for_training("a dozen steps", runs_for_a_while)
        .await;
    kill(&house, "0").await;
    let training = complete(&house).await;
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
        let there = stage(&expected, name);
        let here = stage(&training, name);
        assert_eq!(
            (&here.loss, here.samples_seen),
            (&there.loss, there.samples_seen),
            "{name}"
        );

        assert_eq!(here.best, there.best, "{name}");
    }
}

#[tokio::test]
async fn a_stage_that_does_not_fit_into_memory_is_told_so_before_its_first_step() {
    let house = TestCluster::connect().await;
    let mut spec = tiny_training_spec(&house, &upload_dataset(&house), "run", 10);
    spec["workers"]["resources"] = json!({"limits": {"memory": "64Mi"}});
    house.create_training(spec).await;
    let training = house.wait_for_training("the end", ended).await;
    let words = condition_message(&training, "Failed");

    assert!(words.contains("of memory for 12 pairs at once"), "{words}");
    assert!(words.contains("and there are 64 MiB"), "{words}");
    assert_eq!(
        training.status.as_ref().unwrap().restarts.total,
        0,
        "{words}"
    );
}

#[tokio::test]
async fn what_a_trainer_cannot_use_is_named_and_no_retry_is_burnt() {
    let wrong_digest = "0".repeat(64);
    let rows: [(&str, &str, Value, &str); 4] = [
        (
            "data that is not there",
            "/datasets/0/uri",
            json!("s3://cnclip/nothing/here/"),
            "index.json",
        ),
        (
            "a bucket that is not there",
            "/datasets/0/uri",
            json!("s3://no-such-bucket/x/"),
            "no-such-bucket",
        ),
        (
            "a wrong key",
            "/artifacts/credentials/secretName",
            json!("wrong"),
            "s3://cnclip/",
        ),
        (
            "another vocabulary",
            "/model/vocabulary",
            json!({"uri": "file:///usr/share/cnclip/vocab.txt", "sha256": wrong_digest}),
            &wrong_digest,
        ),
    ];

    for (name, place, value, expected) in rows {
        let house = TestCluster::connect().await;
        let S3Store {
            endpoint, region, ..
        } = &house.testbed.s3;

        let wrong: Secret = parse_object(json!({"metadata": {"name": "wrong"}, "stringData": {
            "AWS_ENDPOINT": endpoint, "AWS_REGION": region, "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}}))
        .unwrap();

        house
            .api()
            .create(&PostParams::default(), &wrong)
            .await
            .unwrap();

        let mut spec = tiny_training_spec(&house, "s3://cnclip/nothing/", "run", 10);
        match spec.pointer_mut(place) {
            Some(field) => *field = value,
            None => spec["model"]["vocabulary"] = value,
        }

        house.create_training(spec).await;
        let training = house.wait_for_training(name, ended).await;
        let words = condition_message(&training, "Failed");
        assert!(words.contains(expected), "{name}: {words}");
        assert_eq!(
            training.status.as_ref().unwrap().restarts.total,
            0,
            "{name}: {words}"
        );
    }
}
