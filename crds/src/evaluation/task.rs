//! One thing that an evaluation measures, as a user writes it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    benchmark::Benchmark,
    report::Metric,
    zero_shot::{DatasetPreset, TemplateSet},
};

/// One thing to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.retrieval) != has(self.zeroShot)").message("give exactly one of retrieval and zeroShot"))]
pub struct TaskSpec {
    /// Name of the task.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Retrieval in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalSpec>,
    /// Classification by names of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShotSpec>,
}

/// Every text of a data set against every image, and back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalSpec {
    /// The prefix of the data set, such as `s3://data/MUGE/valid`: of its shards, or of a split in the
    /// reference's layout, `valid_imgs.tsv` and `valid_texts.jsonl` beside it or its LMDB in
    /// `lmdb/valid`, of which each worker makes shards in `/tmp` first.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub dataset: String,
    /// The public data set that it is. The report then shows what was published for it beside what
    /// was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<Benchmark>,
    /// Finds the similarity below which there is no match for a text. Needs a data set that says which
    /// images belong to which texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationSpec>,
}

/// How similar the first image must be to a text to be told as its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CalibrationSpec {
    /// First answers that shall be right, in percent of those told. The lowest similarity that
    /// reaches it is taken, so that most texts are answered.
    #[schemars(range(min = 1, max = 100))]
    pub precision_percent: i32,
}

/// Classification of pictures by the Chinese names of their classes, without training on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.templates) || !has(self.templateSet)").message("give at most one of templates and templateSet"))]
pub struct ZeroShotSpec {
    /// The prefix of the data set in the layout of ELEVATER, such as `s3://data/elevater/cifar-100/`: the
    /// names of its classes in `label_cn.txt`, its pictures in `test/<class>/`. It must be a place that
    /// can be listed.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub dataset: String,
    /// Which data set it is. It sets the number that the evaluation is compared by and the template set,
    /// and how many classes there must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<DatasetPreset>,
    /// Which of this project's template sets the names are put into. The default is that of the
    /// preset, or else `General`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_set: Option<TemplateSet>,
    /// A file of other templates, one a line, with `{}` where the name of a class goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub templates: Option<String>,
    /// The number that the evaluation is compared by. The default is that of the preset, or else
    /// `accuracy`. `rocAuc` needs two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.contains('.')").message("must be accuracy, top5, meanPerClass, rocAuc or meanAveragePrecision"))]
    pub metric: Option<Metric>,
}
