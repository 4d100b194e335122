//! How to connect to a running testbed: its cluster, its S3 store, its images.

use std::{env, fs, path::PathBuf};

use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;

/// The environment variable with the path of the connection file that `make cluster` and `make test` write.
pub const ENV_TESTBED: &str = "CNCLIP_TESTBED";

/// The connection file of a running testbed.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Testbed {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The path of a kubectl of the cluster's version.
    pub kubectl: PathBuf,
    /// The path of Helm.
    pub helm: PathBuf,
    /// Name of the only node.
    pub node: String,
    /// Base URL of Prometheus, which scrapes annotated pods.
    pub prometheus: String,
    /// The object store, at an address that pods can reach too.
    pub s3: S3Store,
    /// The images under test, which are loaded into the node.
    pub images: TestImages,
}

/// An S3 store with one bucket.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct S3Store {
    /// Base URL.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// ID of the access key.
    pub access_key_id: String,
    /// Secret of the access key.
    pub secret_access_key: String,
}

/// Full image names.
#[derive(Clone, Debug, Deserialize)]
pub struct TestImages {
    /// The trainer's.
    pub trainer: String,
    /// The operator's.
    pub operator: String,
}

impl Testbed {
    /// Reads the connection file that [`ENV_TESTBED`] names.
    ///
    /// # Errors
    /// When the variable is not set, or the file cannot be read.
    pub fn from_env() -> anyhow::Result<Self> {
        let path = env::var(ENV_TESTBED).with_context(|| {
            format!(
                "{ENV_TESTBED} is not set: run `make test`, or run `make cluster` and set it to the \
                 testbed.json that this writes"
            )
        })?;

        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {path}: is the testbed running?"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{path} is not a testbed's connection file"))
    }

    /// A client with an administrator's permissions.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }
}
