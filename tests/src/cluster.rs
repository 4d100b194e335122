//! A cluster with a running operator and a namespace of the test's own, and what most tests do with them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use cnclip_crds::{names, training::CnClipTraining};
use k8s_openapi::{api::events::v1::Event, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    namespace::{self, parse_object},
    operator::install_operator,
    testbed::Testbed,
    wait::wait_until,
};

/// The time limit of every wait for the cluster.
pub const CLUSTER_TIMEOUT: Duration = Duration::from_secs(180);

/// A cluster with the operator, and the namespace of one test.
pub struct TestCluster {
    /// How to connect to the testbed.
    pub testbed: Testbed,
    /// An administrator's client.
    pub client: Client,
    /// The test's own namespace.
    pub namespace: String,
}

impl TestCluster {
    /// Installs the operator, if that has not happened yet, and creates a namespace.
    pub async fn connect() -> Self {
        let (testbed, client) = install_operator().await.unwrap();
        let namespace = namespace::create_namespace(&client, &testbed.s3)
            .await
            .unwrap();
        Self {
            testbed,
            client,
            namespace,
        }
    }

    /// The API of a kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates a training named `run`.
    pub async fn create_training(&self, spec: Value) {
        let training: CnClipTraining =
            parse_object(json!({"metadata": {"name": "run"}, "spec": spec})).unwrap();
        self.api()
            .create(&PostParams::default(), &training)
            .await
            .unwrap();
    }

    /// Merges a patch into the spec of the training `run`.
    pub async fn patch_training(&self, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.api::<CnClipTraining>()
            .patch("run", &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Waits until the training `run` satisfies a predicate, and returns it.
    pub async fn wait_for_training(
        &self,
        description: &str,
        predicate: impl Fn(&CnClipTraining) -> bool,
    ) -> CnClipTraining {
        let trainings = self.api::<CnClipTraining>();
        wait_until(
            description,
            CLUSTER_TIMEOUT,
            async || get_object(&trainings, "run").await,
            predicate,
        )
        .await
        .unwrap()
    }

    /// The names of all objects of a kind that the operator created.
    pub async fn list_created<K>(&self) -> anyhow::Result<Vec<String>>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let created_by_operator = ListParams::default().labels(names::LABEL_RUN);
        let found = self.api::<K>().list(&created_by_operator).await?;
        Ok(found.iter().map(ResourceExt::name_any).collect())
    }

    /// Waits until the operator's objects of a kind are exactly these.
    pub async fn wait_for_only<K>(&self, expected: &[&str])
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        wait_until(
            "exactly these objects",
            CLUSTER_TIMEOUT,
            || self.list_created::<K>(),
            |names| names == expected,
        )
        .await
        .unwrap();
    }

    /// The reasons of the events about the training `run`.
    pub async fn event_reasons(&self) -> anyhow::Result<Vec<String>> {
        let events = self.api::<Event>().list(&ListParams::default()).await?;
        let of_run = events.iter().filter(|event| {
            event
                .regarding
                .as_ref()
                .is_some_and(|object| object.name.as_deref() == Some("run"))
        });

        Ok(of_run.filter_map(|event| event.reason.clone()).collect())
    }
}

/// An object without `managedFields`, whose length would hide the rest in a failure's message.
///
/// # Errors
/// When the API server does not have it.
pub async fn get_object<K>(api: &Api<K>, name: &str) -> anyhow::Result<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut found = api.get(name).await?;
    found.managed_fields_mut().clear();
    Ok(found)
}

/// A condition of a training.
pub fn find_condition<'a>(training: &'a CnClipTraining, type_: &str) -> Option<&'a Condition> {
    training
        .status
        .as_ref()?
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

/// Whether a condition has this status and reason.
pub fn has_condition(training: &CnClipTraining, type_: &str, status: &str, reason: &str) -> bool {
    find_condition(training, type_)
        .is_some_and(|found| found.status == status && found.reason == reason)
}

/// The message of a condition; empty if there is no such condition.
pub fn condition_message<'a>(training: &'a CnClipTraining, type_: &str) -> &'a str {
    find_condition(training, type_)
        .map(|found| found.message.as_str())
        .unwrap_or_default()
}
