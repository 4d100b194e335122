//! A namespace of its own for every test, as restricted as Kubernetes can make it.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client, ResourceExt, api::PostParams};
use serde_json::{Value, json};

use crate::testbed::S3Store;

/// Name of the Secret with access to the store.
pub const S3_SECRET_NAME: &str = "s3";

static NAMESPACE_COUNT: AtomicU32 = AtomicU32::new(0);

/// Makes a namespace with a name that nobody had before, and in it the Secret [`SECRET`]. It goes
/// when the bed goes.
///
/// # Errors
/// When the API server refuses.
pub async fn create_namespace(client: &Client, s3: &S3Store) -> anyhow::Result<String> {
    let name = format!(
        "test-{}-{}",
        process::id(),
        NAMESPACE_COUNT.fetch_add(1, Ordering::Relaxed)
    );

    let namespace: Namespace = parse_object(json!({"metadata": {
        "name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}))?;
    let secret: Secret =
        parse_object(json!({"metadata": {"name": S3_SECRET_NAME}, "stringData": {
        "AWS_ENDPOINT": s3.endpoint, "AWS_REGION": s3.region, "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": s3.access_key_id, "AWS_SECRET_ACCESS_KEY": s3.secret_access_key}}))?;

    let made = Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;

    Api::namespaced(client.clone(), &made.name_any())
        .create(&PostParams::default(), &secret)
        .await?;

    Ok(name)
}

/// An object written as JSON, for tests that read like manifests.
///
/// # Errors
/// When the JSON is no such object.
pub fn parse_object<T: serde::de::DeserializeOwned>(json: Value) -> serde_json::Result<T> {
    serde_json::from_value(json)
}
