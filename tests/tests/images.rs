//! The images contain everything that their programs need, and run without any privilege.

use std::time::Duration;

use cnclip_tests::{
    namespace::{self, parse_object},
    testbed::Testbed,
    wait::wait_until,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{LogParams, PostParams},
};
use serde_json::json;

/// Runs `--version` in a pod without privileges; returns its output.
async fn version(testbed: &Testbed, image: &str) -> anyhow::Result<String> {
    let client = testbed.client().await?;
    let namespace = namespace::create_namespace(&client, &testbed.s3).await?;
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let pod = parse_object(json!({
        "metadata": {"name": "version"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main", "image": image, "args": ["--version"], "imagePullPolicy": "Never",
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                                    "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }))?;

    pods.create(&PostParams::default(), &pod).await?;
    let phase = || async {
        Ok(pods
            .get("version")
            .await?
            .status
            .and_then(|status| status.phase))
    };

    wait_until(
        "the pod to succeed",
        Duration::from_secs(60),
        phase,
        |phase| phase.as_deref() == Some("Succeeded"),
    )
    .await?;

    Ok(pods.logs("version", &LogParams::default()).await?)
}

#[tokio::test]
async fn the_trainer_runs_in_a_pod_without_privileges() {
    let testbed = Testbed::from_env().unwrap();
    let output = version(&testbed, &testbed.images.trainer).await.unwrap();
    assert!(output.starts_with("cnclip "), "{output}");
}

#[tokio::test]
async fn the_operator_runs_in_a_pod_without_privileges() {
    let testbed = Testbed::from_env().unwrap();
    let output = version(&testbed, &testbed.images.operator).await.unwrap();
    assert!(output.starts_with("cnclip-operator "), "{output}");
}
