//! What both kinds of manifest say in the same words: where artifacts go and who does the work.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, Toleration},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stage::{Accelerator, Precision};

/// A prefix in an object store, and who may use it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactLocation {
    /// Where checkpoints, metrics and the report go, such as `s3://runs/muge-b16/`. One prefix a run.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file)://.+')").message("must be a writable prefix: s3://…, gs://…, az://… or file://…"))]
    #[schemars(length(max = 1024))]
    pub uri: String,
    /// Who may read the data and write here. Without it, the pods' service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StoreCredentials>,
}

/// Access to the object store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreCredentials {
    /// A Secret in the same namespace. Its keys become environment variables of the pods, such as
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT`. The operator never reads it.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// A file with a known content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VocabularyFile {
    /// Where it is.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub uri: String,
    /// Its sha256. The default is the vocabulary of all published models.
    #[serde(default = "vocabulary_sha256")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f]{64}$')").message("must be 64 lower-case hexadecimal digits, as sha256sum prints them"))]
    #[schemars(length(max = 64))]
    pub sha256: String,
}

fn vocabulary_sha256() -> String {
    crate::names::VOCABULARY_SHA256.to_owned()
}

/// CPU, memory and other resources by name, such as `{cpu: 4, memory: 8Gi}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerResources {
    /// What a worker is promised.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new("self.all(name, type(self[name]) == int || isQuantity(self[name]))").message("each amount must be a Kubernetes quantity such as 4, \"500m\" or \"8Gi\""))]
    pub requests: BTreeMap<String, IntOrString>,
    /// What a worker may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new("self.all(name, type(self[name]) == int || isQuantity(self[name]))").message("each amount must be a Kubernetes quantity such as 4, \"500m\" or \"8Gi\""))]
    pub limits: BTreeMap<String, IntOrString>,
}

/// The pods that do the work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.accelerator == 'Nvidia' || self.devices == 1").message("devices must be 1 when accelerator is None: a worker uses all CPUs it may"))]
#[x_kube(validation = Rule::new("!has(self.resources) || !(has(self.resources.limits) && 'nvidia.com/gpu' in self.resources.limits) && !(has(self.resources.requests) && 'nvidia.com/gpu' in self.resources.requests)").message("leave nvidia.com/gpu out of resources: it is added from devices"))]
pub struct WorkersSpec {
    /// Worker pods.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 4096))]
    pub replicas: i32,
    /// Devices of each worker.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub devices: i32,
    /// What they compute on.
    #[serde(default)]
    pub accelerator: Accelerator,
    /// Number format of the arithmetic. Master weights are always fp32.
    #[serde(default)]
    pub precision: Precision,
    /// Trainer image. The default is the one the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// CPU, memory and other resources of each worker. GPUs are added from `devices`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<WorkerResources>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Where the pods like to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Service account of the pods, for access to the object store. It needs no right in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

fn one() -> i32 {
    1
}

impl Default for WorkersSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            devices: 1,
            accelerator: Accelerator::default(),
            precision: Precision::default(),
            image: None,
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            service_account_name: None,
            priority_class_name: None,
        }
    }
}

/// How often something may fail before it is given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryLimits {
    /// Restarts after a fault of the program or a lack of memory.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 1000))]
    pub application: i32,
    /// Restarts after a lost node, a preemption or a pod that was deleted.
    #[serde(default = "twenty")]
    #[schemars(range(min = 0, max = 1000))]
    pub infrastructure: i32,
}

fn three() -> i32 {
    3
}
fn twenty() -> i32 {
    20
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self {
            application: three(),
            infrastructure: twenty(),
        }
    }
}

/// Restarts so far, by whose fault they were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartCounts {
    /// All of them.
    #[serde(default)]
    pub total: i32,
    /// Those that count against `retries.application`.
    #[serde(default)]
    pub application: i32,
    /// Those that count against `retries.infrastructure`.
    #[serde(default)]
    pub infrastructure: i32,
    /// By class of failure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_class: BTreeMap<String, i32>,
}

/// The last thing that went wrong. Kept until the run ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// Class of the failure, such as `OutOfMemory` or `NodeLost`.
    pub class: String,
    /// Stage in which it happened.
    pub stage: String,
    /// Attempt at that stage.
    pub attempt: i32,
    /// Last step that was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// Exit code of the trainer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Node of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What was tried, what was found and what to do.
    pub message: String,
    /// When it was seen (RFC 3339).
    pub at: String,
}

/// Recall as text, in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecallStatus {
    /// Percent of queries whose first candidate is relevant.
    pub r1: String,
    /// Among the first five.
    pub r5: String,
    /// Among the first ten.
    pub r10: String,
    /// Mean of the three.
    pub mean_recall: String,
}

/// Recall in both directions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecallsStatus {
    /// Texts ask, images answer.
    pub text_to_image: RecallStatus,
    /// Images ask, texts answer.
    pub image_to_text: RecallStatus,
}
