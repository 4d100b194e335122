//! One thing that an evaluation measures, as a user writes it.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::benchmark::Benchmark;

/// One thing to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.retrieval) != has(self.zeroShot)").message("give exactly one of retrieval and zeroShot"))]
pub struct Task {
    /// Name of the task.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Retrieval in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
    /// Classification by names of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShot>,
}

/// Every text of a data set against every image, and back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retrieval {
    /// The prefix of the data set, such as `s3://data/muge/valid/`.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub dataset: String,
    /// The public data set that it is. The report then shows what was published for it beside what
    /// was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<Benchmark>,
}

/// Classification of pictures by the Chinese names of their classes, without training on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZeroShot {
    /// The prefix of the data set in the layout of ELEVATER, such as `s3://data/elevater/cifar-100/`.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub dataset: String,
}
