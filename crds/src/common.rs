//! Types shared by the specs and status of trainings and evaluations.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, Toleration},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    defaults,
    stage::{Accelerator, Precision},
};

/// Object store prefix and credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactLocation {
    /// URI prefix of checkpoints, metrics and the report, such as `s3://runs/muge-b16/`. Must be unique per
    /// run.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file)://.+')").message("must be a writable prefix: s3://…, gs://…, az://… or file://…"))]
    #[schemars(length(max = 1024))]
    pub uri: String,
    /// Object store credentials of the pods. Unset: the identity of the pods' service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StoreCredentials>,
}

/// Object store credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreCredentials {
    /// Name of a Secret in the same namespace. Its keys are set as environment variables of the pods, such as
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT`. The operator does not read it.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Vocabulary file of the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VocabularyFile {
    /// URI of the file.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub uri: String,
    /// SHA-256 digest of the file. Defaults to the digest of the vocabulary of all published models.
    #[serde(default = "defaults::vocabulary_sha256")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f]{64}$')").message("must be 64 lower-case hexadecimal digits, as sha256sum prints them"))]
    #[schemars(length(max = 64))]
    pub sha256: String,
}

/// Compute resources by name, such as `{cpu: 4, memory: 8Gi}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerResources {
    /// Resource requests of a worker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    // An IntOrString is `dyn` in CEL, and `isQuantity` accepts strings only: the type is tested
    // first.
    #[x_kube(validation = Rule::new("self.all(name, type(self[name]) == int || isQuantity(self[name]))").message("each amount must be a Kubernetes quantity such as 4, \"500m\" or \"8Gi\""))]
    pub requests: BTreeMap<String, IntOrString>,
    /// Resource limits of a worker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new("self.all(name, type(self[name]) == int || isQuantity(self[name]))").message("each amount must be a Kubernetes quantity such as 4, \"500m\" or \"8Gi\""))]
    pub limits: BTreeMap<String, IntOrString>,
}

/// Worker pods: count, accelerator, resources and scheduling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.accelerator == 'Nvidia' || self.devices == 1").message("devices must be 1 when accelerator is None: a worker uses all CPUs it may"))]
// A second count of GPUs could contradict `devices`, which determines the number of ranks.
#[x_kube(validation = Rule::new("!has(self.resources) || !(has(self.resources.limits) && 'nvidia.com/gpu' in self.resources.limits) && !(has(self.resources.requests) && 'nvidia.com/gpu' in self.resources.requests)").message("leave nvidia.com/gpu out of resources: it is added from devices"))]
pub struct WorkersSpec {
    /// Number of worker pods.
    #[serde(default = "defaults::one")]
    #[schemars(range(min = 1, max = 4096))]
    pub replicas: i32,
    /// Number of devices per worker.
    #[serde(default = "defaults::one")]
    #[schemars(range(min = 1, max = 64))]
    pub devices: i32,
    /// Accelerator type.
    #[serde(default)]
    pub accelerator: Accelerator,
    /// Floating-point format of the computation. Master weights are always fp32.
    #[serde(default)]
    pub precision: Precision,
    /// Trainer container image. Defaults to the image configured for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// Compute resources of each worker. GPUs are added from `devices`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<WorkerResources>,
    /// Node selector of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Tolerations of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Pod affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Service account of the pods, for workload identity with the object store. No RBAC permissions are
    /// required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

impl Default for WorkersSpec {
    fn default() -> Self {
        Self {
            replicas: defaults::one(),
            devices: defaults::one(),
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

/// Retry limits per failure category.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryLimits {
    /// Maximum number of restarts after an application error or an out-of-memory failure.
    #[serde(default = "defaults::application_retries")]
    #[schemars(range(min = 0, max = 1000))]
    pub application: i32,
    /// Maximum number of restarts after a node failure, a preemption or a pod deletion.
    #[serde(default = "defaults::infrastructure_retries")]
    #[schemars(range(min = 0, max = 1000))]
    pub infrastructure: i32,
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self {
            application: defaults::application_retries(),
            infrastructure: defaults::infrastructure_retries(),
        }
    }
}

/// How a run is started, retried and ended: the fields that trainings and evaluations have in common.
///
/// The specs declare them one by one, because `kubectl explain` describes four of them in the words of their kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunPolicy {
    /// Retry limits per failure category.
    pub retries: RetryLimits,
    /// Maximum number of seconds that the pods of a stage may be pending.
    pub start_deadline_seconds: i64,
    /// Maximum duration of the run in seconds. Unset: no limit.
    pub deadline_seconds: Option<i64>,
    /// Name of the Kueue LocalQueue that admits the pods.
    pub queue_name: Option<String>,
    /// Whether the run is suspended.
    pub suspend: bool,
    /// Number of seconds after which the finished run is deleted. Unset: never deleted.
    pub ttl_seconds_after_finished: Option<i64>,
}

/// Number of restarts by failure category.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartCounts {
    /// Total number of restarts.
    #[serde(default)]
    pub total: i32,
    /// Restarts that count toward `retries.application`.
    #[serde(default)]
    pub application: i32,
    /// Restarts that count toward `retries.infrastructure`.
    #[serde(default)]
    pub infrastructure: i32,
    /// Restarts by failure class.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_class: BTreeMap<String, i32>,
}

/// Most recent failure. Retained until the run ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// Failure class, such as `OutOfMemory` or `NodeLost`.
    pub class: String,
    /// Stage that failed.
    pub stage: String,
    /// Attempt that failed.
    pub attempt: i32,
    /// Last reported step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// Exit code of the trainer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Node of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Cause of the failure and suggested remedy.
    pub message: String,
    /// Time at which the failure was observed (RFC 3339).
    pub at: String,
}
