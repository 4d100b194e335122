//! Zero-shot classification: images classified by the Chinese names of their classes.

mod dataset_preset;
mod template_set;

#[cfg(feature = "kube")]
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Metric, format_percent};
pub use dataset_preset::{DatasetDefaults, DatasetPreset};
pub use template_set::TemplateSet;

/// Zero-shot image classification by the Chinese names of the classes.
#[cfg(feature = "kube")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.templates) || !has(self.templateSet)").message("give at most one of templates and templateSet"))]
pub struct ZeroShotSpec {
    /// URI prefix of the data set in the layout of ELEVATER, such as `s3://data/elevater/cifar-100/`: class names
    /// in `label_cn.txt`, images in `test/<class>/`. The location must support listing.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub dataset: String,
    /// Public data set. Sets the defaults of the primary metric and of the template set, and the expected number
    /// of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<DatasetPreset>,
    /// Built-in prompt template set. Defaults to that of the preset, or else `General`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_set: Option<TemplateSet>,
    /// URI of a file of prompt templates, one per line, with `{}` as the placeholder of the class name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https)://.+')").message("must be s3://…, gs://…, az://…, file://… or https://…"))]
    #[schemars(length(max = 1024))]
    pub templates: Option<String>,
    /// Primary metric. Defaults to that of the preset, or else `accuracy`. `rocAuc` requires two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.contains('.')").message("must be accuracy, top5, meanPerClass, rocAuc or meanAveragePrecision"))]
    pub metric: Option<Metric>,
}

#[cfg(feature = "kube")]
impl ZeroShotSpec {
    /// What the trainer reads of it.
    pub fn to_config(&self) -> ZeroShotConfig {
        ZeroShotConfig {
            dataset: self.dataset.clone(),
            preset: self.preset,
            template_set: self.template_set,
            templates: self.templates.clone(),
            metric: self.metric,
        }
    }
}

/// A zero-shot classification, as the trainer reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ZeroShotConfig {
    /// The prefix of the data set.
    pub dataset: String,
    /// Which data set it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<DatasetPreset>,
    /// The built-in template set; the default is that of the preset, or else `General`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_set: Option<TemplateSet>,
    /// A file of templates to use instead, one a line, with `{}` where the name of a class goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<String>,
    /// The primary metric; the default is that of the preset, or else accuracy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
}

/// What a zero-shot classification measured.
///
/// # Units
/// Percent
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ZeroShotScores {
    /// How many classes there are.
    pub classes: i64,
    /// The primary metric: the one that this data set is compared by.
    pub headline: Metric,
    /// Images whose most probable class is theirs.
    pub accuracy: f64,
    /// Images whose class is among the five most probable.
    pub top5: f64,
    /// Mean of the accuracies of the classes.
    pub mean_per_class: f64,
    /// Area under the receiver operating characteristic; of two classes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Mean over the classes of the 11-point interpolated average precision.
    pub mean_average_precision: f64,
    /// The prompt templates of the class names.
    #[serde(default)]
    pub templates: TemplatesReport,
}

/// Prompt templates of the class names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplatesReport {
    /// URI of the file, or name of a built-in set, such as `cnclip: General`.
    pub from: String,
    /// Number of templates.
    pub count: i64,
    /// SHA-256 digest of the file.
    pub digest: String,
}

// As for recalls: reported scores and their text in the status have fields of the same names.
macro_rules! score_by_metric {
    ($scores:expr, $metric:expr) => {
        match $metric {
            Metric::Accuracy => Some(&$scores.accuracy),
            Metric::Top5 => Some(&$scores.top5),
            Metric::MeanPerClass => Some(&$scores.mean_per_class),
            Metric::RocAuc => $scores.roc_auc.as_ref(),
            Metric::MeanAveragePrecision => Some(&$scores.mean_average_precision),
            _ => None,
        }
    };
}

impl ZeroShotScores {
    /// One of its scores; `None` where it was not measured.
    pub fn find_score(&self, metric: Metric) -> Option<f64> {
        score_by_metric!(self, metric).copied()
    }

    /// The scores as the status shows them.
    pub fn to_status(&self) -> ZeroShotStatus {
        ZeroShotStatus {
            classes: self.classes,
            headline: self.headline.name().to_owned(),
            accuracy: format_percent(self.accuracy),
            top5: format_percent(self.top5),
            mean_per_class: format_percent(self.mean_per_class),
            roc_auc: self.roc_auc.map(format_percent),
            mean_average_precision: format_percent(self.mean_average_precision),
        }
    }
}

/// Result of a zero-shot classification task, in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZeroShotStatus {
    /// Number of classes.
    pub classes: i64,
    /// Name of the primary metric.
    pub headline: String,
    /// Top-1 accuracy.
    pub accuracy: String,
    /// Top-5 accuracy.
    pub top5: String,
    /// Mean per-class accuracy.
    pub mean_per_class: String,
    /// Area under the ROC curve, for two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<String>,
    /// 11-point interpolated mean average precision.
    pub mean_average_precision: String,
}

impl ZeroShotStatus {
    /// One of its scores as text; `None` where it was not measured.
    pub fn find_score(&self, metric: Metric) -> Option<&str> {
        score_by_metric!(self, metric).map(String::as_str)
    }
}
