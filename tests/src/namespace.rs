//! A namespace for every test, which enforces the `restricted` Pod Security Standard.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client, ResourceExt, api::PostParams};
use serde_json::{Value, json};

use crate::testbed::S3Store;

/// Name of the Secret with the credentials of the object store.
pub const S3_SECRET_NAME: &str = "s3";

static NAMESPACE_COUNT: AtomicU32 = AtomicU32::new(0);

/// Creates a namespace with a new name, and in it the Secret [`S3_SECRET_NAME`]. It exists as long as the testbed.
///
/// # Errors
/// When the API server rejects a request.
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

    let created = Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;

    Api::namespaced(client.clone(), &created.name_any())
        .create(&PostParams::default(), &secret)
        .await?;

    Ok(name)
}

/// Parses an object from JSON, so that tests read like manifests.
///
/// # Errors
/// When the JSON does not fit the type.
pub fn parse_object<T: serde::de::DeserializeOwned>(json: Value) -> serde_json::Result<T> {
    serde_json::from_value(json)
}
