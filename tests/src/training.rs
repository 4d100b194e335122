//! A training that takes seconds: a tiny model on a dozen images.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::{cluster::TestCluster, operator::run_command, testbed::S3Store};

/// Uploads the golden data set to a prefix of the test's own with `cnclip prepare`; returns its URI.
pub fn upload_dataset(cluster: &TestCluster) -> String {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/golden/dataset");
    let S3Store {
        endpoint,
        bucket,
        region,
        access_key_id,
        secret_access_key,
    } = &cluster.testbed.s3;

    let uri = format!("s3://{bucket}/{}/data/", cluster.namespace);
    let program = std::env::var("CNCLIP_PROGRAM").expect("`make test` sets CNCLIP_PROGRAM");
    run_command(
        Command::new(program)
            .args(["prepare", "--most-skipped", "10", "--output", &uri])
            .args([
                "--images".into(),
                golden.join("train_imgs.tsv").into_os_string(),
            ])
            .args([
                "--texts".into(),
                golden.join("train_texts.jsonl").into_os_string(),
            ])
            .env("AWS_ENDPOINT", endpoint)
            .env("AWS_REGION", region)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_ACCESS_KEY_ID", access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", secret_access_key),
        "",
    )
    .unwrap();

    uri
}

/// The spec of a training of a tiny model in two stages of `steps` each.
pub fn tiny_training_spec(cluster: &TestCluster, data: &str, name: &str, steps: i64) -> Value {
    let stage = |name: &str, freeze: &str| {
        json!({"name": name, "dataset": "pairs", "freeze": freeze, "steps": steps, "globalBatchSize": 12,
               "learningRate": "1e-3", "warmupSteps": 2, "validation": {"dataset": "pairs", "everySteps": steps}})
    };

    let text = json!({"layers": 2, "width": 64, "heads": 2, "intermediate": 256, "positions": 32});
    let vit = json!({"layers": 4, "width": 128, "patchSize": 8});
    json!({
        "model": {
            "architecture": "Custom",
            "contextLength": 24,
            "custom": {"embedDim": 32, "image": {"resolution": 64, "vit": vit}, "text": text},
        },
        "datasets": [{"name": "pairs", "uri": data}],
        "stages": [stage("align", "Image"), stage("pretrain", "None")],
        "workers": {"accelerator": "None"},
        "checkpoint": {"everySteps": 10, "keep": 2},
        "artifacts": {
            "uri": format!("s3://{}/{}/{name}/", cluster.testbed.s3.bucket, cluster.namespace),
            "credentials": {"secretName": "s3"},
        },
    })
}

/// Makes the first stage so long that a test which has seen it start can still kill it.
pub fn lengthen_first_stage(mut spec: Value) -> Value {
    spec["stages"][0]["steps"] = json!(300);
    spec
}
