//! The images hold all that their programs need, and run with no right at all.

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

/// Runs `--version` in a pod that may do nothing, and returns what it printed.
async fn version(bed: &Testbed, image: &str) -> anyhow::Result<String> {
    let client = bed.client().await?;
    let namespace = namespace::create_namespace(&client, &bed.s3).await?;
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
async fn the_trainer_runs_as_a_pod_without_rights() {
    let bed = Testbed::from_env().unwrap();
    let said = version(&bed, &bed.images.trainer).await.unwrap();
    assert!(said.starts_with("cnclip "), "{said}");
}

#[tokio::test]
async fn the_operator_runs_as_a_pod_without_rights() {
    let bed = Testbed::from_env().unwrap();
    let said = version(&bed, &bed.images.operator).await.unwrap();
    assert!(said.starts_with("cnclip-operator "), "{said}");
}
