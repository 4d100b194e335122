//! Evaluations from manifest to status: gates, baselines, every checkpoint of a training, the leaderboard.
//! Real trainers on a real cluster.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use cnclip_crds::{evaluation::CnClipEvaluation, training::StageState};
use cnclip_tests::{
    cluster::{TestCluster, get_object},
    namespace::parse_object,
    operator::{NAMESPACE, RELEASE, run_command},
    testbed::S3Store,
    training::{lengthen_first_stage, tiny_training_spec, upload_dataset},
    wait::wait_until,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use object_store::{ObjectStoreExt, aws::AmazonS3Builder};
use serde_json::{Value, json};

/// The time limit of a training of a few steps and its evaluations.
const EVALUATION_TIMEOUT: Duration = Duration::from_secs(300);

/// The evaluations in a test's namespace.
struct Evaluations<'a> {
    cluster: &'a TestCluster,
    api: Api<CnClipEvaluation>,
}

impl<'a> Evaluations<'a> {
    fn new(cluster: &'a TestCluster) -> Self {
        Self {
            cluster,
            api: cluster.api(),
        }
    }

    async fn create(&self, name: &str, spec: Value) {
        let evaluation: CnClipEvaluation =
            parse_object(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        self.api
            .create(&PostParams::default(), &evaluation)
            .await
            .unwrap();
    }

    /// Changes the gate of an evaluation.
    async fn patch_gate(&self, name: &str, gate: Value) {
        let patch = Patch::Merge(json!({"spec": {"gate": gate}}));
        self.api
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Waits until a condition has this status and reason (any, if empty), and returns the evaluation.
    async fn wait_for_condition(
        &self,
        name: &str,
        type_: &str,
        status: &str,
        reason: &str,
    ) -> CnClipEvaluation {
        let has_condition = |found: &CnClipEvaluation| {
            found
                .status
                .iter()
                .flat_map(|all| &all.conditions)
                .any(|condition| {
                    condition.type_ == type_
                        && condition.status == status
                        && (reason.is_empty() || condition.reason == reason)
                })
        };

        let description = format!("{name}: {type_} {status} {reason}");
        wait_until(
            &description,
            EVALUATION_TIMEOUT,
            async || get_object(&self.api, name).await,
            has_condition,
        )
        .await
        .unwrap()
    }

    fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.cluster.testbed.kubectl);
        command
            .args(["--namespace", &self.cluster.namespace])
            .args(args);

        run_command(
            command.env("KUBECONFIG", &self.cluster.testbed.kubeconfig),
            "",
        )
    }
}

fn task(data: &str) -> Value {
    json!([{"name": "golden", "retrieval": {"dataset": data}}])
}

fn at_least(value: &str) -> Value {
    json!({"task": "golden", "metric": "textToImage.meanRecall", "atLeast": value, "notWorseThan": null})
}

fn not_worse_than(name: &str) -> Value {
    json!({"task": "golden", "metric": "textToImage.meanRecall", "notWorseThan": {"evaluationName": name}})
}

fn score(evaluation: &CnClipEvaluation) -> f64 {
    let status = evaluation.status.as_ref().unwrap();
    let recalls = status.results[0]
        .retrieval
        .as_ref()
        .unwrap()
        .recalls
        .as_ref()
        .unwrap();

    recalls.text_to_image.mean_recall.parse().unwrap()
}

/// The score metrics of the test's evaluations, from all replicas of the operator.
async fn score_metrics(cluster: &TestCluster) -> anyhow::Result<Vec<String>> {
    let pods: Api<k8s_openapi::api::core::v1::Pod> =
        Api::namespaced(cluster.client.clone(), NAMESPACE);
    let selector = format!("app.kubernetes.io/instance={RELEASE}");
    let mut lines = Vec::new();

    for pod in pods
        .list(&kube::api::ListParams::default().labels(&selector))
        .await?
    {
        let name = pod.metadata.name.unwrap_or_default();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:8080/proxy/metrics");
        let request = http::Request::get(path).body(Vec::new())?;
        let text = cluster.client.request_text(request).await?;
        let namespace = format!("namespace=\"{}\"", cluster.namespace);
        let of_test =
            |line: &&str| line.starts_with("cnclip_evaluation_score{") && line.contains(&namespace);

        lines.extend(text.lines().filter(of_test).map(str::to_owned));
    }

    Ok(lines)
}

#[tokio::test]
async fn gates_pass_fail_and_wait_for_their_baselines() {
    let cluster = TestCluster::connect().await;
    let evaluations = Evaluations::new(&cluster);
    let data = upload_dataset(&cluster);
    cluster
        .create_training(tiny_training_spec(&cluster, &data, "run", 20))
        .await;
    let of_run = json!({"trainingName": "run"});
    let with_baseline =
        json!({"checkpoint": of_run, "tasks": task(&data), "gate": not_worse_than("score")});

    evaluations.create("compared", with_baseline).await;
    evaluations
        .wait_for_condition("compared", "Complete", "True", "")
        .await;
    // Complete, although its baseline does not exist yet.
    evaluations
        .wait_for_condition("compared", "GatePassed", "Unknown", "BaselineMissing")
        .await;

    let spec = json!({"checkpoint": of_run, "tasks": task(&data), "gate": at_least("0")});
    evaluations.create("score", spec).await;
    let scored = evaluations
        .wait_for_condition("score", "GatePassed", "True", "Passed")
        .await;

    evaluations
        .wait_for_condition("compared", "GatePassed", "True", "Passed")
        .await;

    let arguments = [
        "wait",
        "cce/score",
        "--for=condition=GatePassed",
        "--timeout=60s",
    ];

    assert!(
        evaluations
            .kubectl(&arguments)
            .unwrap()
            .contains("condition met")
    );

    let score = score(&scored);
    assert!(score < 100.0, "a gate above the score must be possible");
    evaluations
        .patch_gate("score", at_least(&format!("{:.2}", score + 0.01)))
        .await;

    let failed = evaluations
        .wait_for_condition("score", "GatePassed", "False", "BelowTheGate")
        .await;

    let status = failed.status.as_ref().unwrap();
    assert_eq!(status.summary.as_ref().unwrap().gate, "Failed");
    let failed = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Failed")
        .unwrap();

    assert_eq!(
        failed.status, "False",
        "a failed gate must not fail the evaluation"
    );

    let provenance = scored.status.as_ref().unwrap().provenance.clone().unwrap();
    let training = cluster
        .wait_for_training("its checkpoints", |run| run.status.is_some())
        .await;

    let last = training.status.unwrap().checkpoints.swap_remove(0);
    assert_eq!((last.stage.as_str(), last.step), ("pretrain", 20));
    assert_eq!(
        (provenance.checkpoint, provenance.digest),
        (last.uri, Some(last.digest))
    );

    assert_eq!(
        provenance.datasets[0].uri.trim_end_matches('/'),
        data.trim_end_matches('/')
    );

    assert_eq!(provenance.image, cluster.testbed.images.trainer);
    assert!(provenance.image_id.unwrap().contains("sha256:"));

    let table = evaluations
        .kubectl(&["get", "cce", "--sort-by=.status.summary.score"])
        .unwrap();

    for text in [
        "METRIC",
        "SCORE",
        "GATE",
        "textToImage.r1",
        "Failed",
        "Passed",
    ] {
        assert!(table.contains(text), "{table}");
    }

    wait_until(
        "eight metrics of each of both evaluations",
        EVALUATION_TIMEOUT,
        || score_metrics(&cluster),
        |lines| lines.len() == 16,
    )
    .await
    .unwrap();

    evaluations
        .api
        .delete("score", &DeleteParams::default())
        .await
        .unwrap();

    wait_until(
        "the metrics of the other evaluation only",
        EVALUATION_TIMEOUT,
        || score_metrics(&cluster),
        |lines| lines.len() == 8,
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn every_checkpoint_of_a_training_is_evaluated() {
    let cluster = TestCluster::connect().await;
    let evaluations = Evaluations::new(&cluster);
    let data = upload_dataset(&cluster);
    let mut spec = lengthen_first_stage(tiny_training_spec(&cluster, &data, "run", 20));
    spec["checkpoint"] = json!({"everySteps": 100, "keep": 50});
    cluster.create_training(spec).await;
    let spec = json!({"checkpoint": {"trainingName": "run"}, "trigger": "EveryCheckpoint",
                      "tasks": task(&data)});
    evaluations.create("each", spec).await;
    let scored = evaluations
        .wait_for_condition("each", "Complete", "True", "Done")
        .await
        .status
        .unwrap();
    let names: Vec<_> = scored
        .history
        .iter()
        .map(|entry| entry.name.as_str())
        .collect();
    assert_eq!(names.first(), Some(&"pretrain-20"), "{names:?}");
    assert!(
        names.len() >= 3 && names.contains(&"align-300"),
        "{names:?}"
    );
    for entry in &scored.history {
        assert_eq!(
            (entry.state, entry.attempt),
            (StageState::Succeeded, 1),
            "{entry:?}"
        );

        assert_eq!(entry.results[0].metric, "textToImage.r1", "{entry:?}");
        assert!(
            entry.results[0].score.is_some() && entry.digest.len() == 64,
            "{entry:?}"
        );
    }
    let provenance = scored.provenance.unwrap();
    assert_eq!(provenance.checkpoint, scored.history[0].checkpoint);
    assert_eq!(provenance.digest.as_ref(), Some(&scored.history[0].digest));
    let report = scored.report.unwrap();
    assert!(
        report.ends_with("/run/evaluations/each/pretrain-20/report.html"),
        "{report}"
    );
}

/// Uploads files to a folder in a prefix of the test's own; returns its URI.
async fn upload_files(
    cluster: &TestCluster,
    folder: &str,
    files: Vec<(String, Vec<u8>)>,
) -> String {
    let S3Store {
        endpoint,
        bucket,
        region,
        access_key_id,
        secret_access_key,
    } = &cluster.testbed.s3;

    let store = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_region(region)
        .with_access_key_id(access_key_id)
        .with_secret_access_key(secret_access_key)
        .with_allow_http(true)
        .build()
        .unwrap();

    let folder = format!("{}/{folder}", cluster.namespace);
    for (name, bytes) in files {
        store
            .put(&format!("{folder}/{name}").into(), bytes.into())
            .await
            .unwrap();
    }

    format!("s3://{bucket}/{folder}")
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../trainer/tests/golden")
        .join(name)
}

/// Uploads a split in the reference's file format; returns its URI.
async fn upload_split(cluster: &TestCluster) -> String {
    let file = |name: &str| {
        (
            name.to_owned(),
            std::fs::read(golden("dataset").join(name)).unwrap(),
        )
    };

    let files = vec![file("train_imgs.tsv"), file("train_texts.jsonl")];
    format!("{}/train", upload_files(cluster, "golden", files).await)
}

/// Uploads images of two classes in ELEVATER's layout; returns their URI.
async fn upload_classes(cluster: &TestCluster) -> String {
    let mut images = vec![("label_cn.txt".to_owned(), "照片\n图形\n".into())];
    for (class, extension) in ["jpg", "png"].into_iter().enumerate() {
        let files = std::fs::read_dir(golden("images/usual"))
            .unwrap()
            .map(|file| file.unwrap().path());

        for file in files.filter(|file| file.extension().is_some_and(|found| found == extension)) {
            let name = file.file_name().unwrap().to_string_lossy();
            images.push((
                format!("test/{class}/{name}"),
                std::fs::read(&file).unwrap(),
            ));
        }
    }

    upload_files(cluster, "classes", images).await
}

#[tokio::test]
async fn zero_shot_classification_and_retrieval_are_tasks_of_one_evaluation() {
    let cluster = TestCluster::connect().await;
    let evaluations = Evaluations::new(&cluster);
    let data = upload_dataset(&cluster);
    let classes = upload_classes(&cluster).await;
    let split = upload_split(&cluster).await;

    cluster
        .create_training(tiny_training_spec(&cluster, &data, "run", 20))
        .await;
    let spec = json!({
        "checkpoint": {"trainingName": "run"},
        "tasks": [
            {"name": "classes", "zeroShot": {"dataset": classes, "metric": "rocAuc"}},
            {"name": "golden", "retrieval": {"dataset": data, "calibration": {"precisionPercent": 1}}},
            {"name": "split", "retrieval": {"dataset": split}},
        ],
        "features": ["Npy"],
        "maxSkippedPercent": 10,
        "workers": {"replicas": 2, "accelerator": "None"},
        "gate": {"task": "classes", "metric": "accuracy", "atLeast": "0"},
    });

    evaluations.create("both", spec).await;
    // The gate is decided as soon as its score is known, before the other tasks are complete.
    evaluations
        .wait_for_condition("both", "GatePassed", "True", "Passed")
        .await;

    let status = evaluations
        .wait_for_condition("both", "Complete", "True", "Done")
        .await
        .status
        .unwrap();

    let scores = status.results[0].zero_shot.as_ref().unwrap();
    assert_eq!((scores.classes, scores.headline.as_str()), (2, "rocAuc"));
    assert!(scores.roc_auc.is_some(), "{scores:?}");
    let retrieval = status.results[1].retrieval.as_ref().unwrap();
    assert!(
        retrieval.recalls.is_some() && retrieval.threshold.is_some(),
        "{retrieval:?}"
    );

    let summary = status.summary.unwrap();
    assert_eq!(
        (summary.tasks.as_str(), summary.metric.as_str()),
        ("3/3", "rocAuc")
    );

    let of_split = status.results[2].retrieval.as_ref().unwrap();
    assert_eq!(of_split.recalls, retrieval.recalls);
    let datasets = &status.provenance.as_ref().unwrap().datasets;
    assert_eq!(
        (&datasets[2].uri, &datasets[2].digest),
        (&split, &datasets[1].digest)
    );

    evaluations
        .create(
            "wrong",
            json!({
                "checkpoint": {"trainingName": "run"},
                "tasks": [{"name": "classes", "zeroShot": {"dataset": classes, "preset": "mnist"}}],
            }),
        )
        .await;

    let failed = evaluations
        .wait_for_condition("wrong", "Failed", "True", "")
        .await;
    let status = serde_json::to_string(&failed.status).unwrap();
    assert!(status.contains("label_cn.txt"), "{status}");
}

/// `kubectl` sorts strings that are decimal numbers by value.
#[tokio::test]
async fn the_leaderboard_is_sorted_by_number() {
    let cluster = TestCluster::connect().await;
    let evaluations = Evaluations::new(&cluster);
    let of_nothing =
        json!({"checkpoint": {"trainingName": "none"}, "tasks": task("s3://cnclip/x/")});
    let scores = [("nine", "9.50"), ("hundred", "100.00"), ("half", "58.40")];

    for (name, _) in scores {
        evaluations.create(name, of_nothing.clone()).await;
        evaluations
            .wait_for_condition(name, "Running", "False", "TrainingMissing")
            .await;
    }

    let sorted = [
        "get",
        "cce",
        "--sort-by=.status.summary.score",
        "--output=name",
    ];

    // Written before each read, because the operator, which has no results, removes them at every reconcile.
    let read = async || {
        for (name, score) in scores {
            let status = json!({"status": {"summary": {"score": score}}});
            let patch = Patch::Merge(status);
            evaluations
                .api
                .patch_status(name, &PatchParams::default(), &patch)
                .await?;
        }

        evaluations.kubectl(&sorted)
    };

    let in_order = |names: &String| {
        let names = names.lines().filter_map(|line| line.rsplit('/').next());
        names.eq(["nine", "half", "hundred"])
    };

    wait_until("the order", EVALUATION_TIMEOUT, read, in_order)
        .await
        .unwrap();
}
