//! The tasks of an evaluation, one file each: what a user writes of it, what the trainer reads, the scores,
//! and what the status shows. Here are the types over all tasks.
//!
//! A new task is a file beside these two and, here, a variant or a field in each type.

mod metric;
mod retrieval;
mod zero_shot;

#[cfg(feature = "kube")]
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "kube")]
pub use retrieval::RetrievalSpec;
pub use retrieval::{
    Benchmark, CalibrationConfig, CalibrationSpec, RecallAtK, RecallStatus, RecallsStatus,
    RetrievalConfig, RetrievalRecalls, RetrievalScores, RetrievalStatus, SimilarityThreshold,
    ThresholdStatus,
};
#[cfg(feature = "kube")]
pub use zero_shot::ZeroShotSpec;
pub use zero_shot::{
    DatasetDefaults, DatasetPreset, TemplateSet, TemplatesReport, ZeroShotConfig, ZeroShotScores,
    ZeroShotStatus,
};

/// The fields of [`TaskSpec`] and [`TaskConfig`], of which exactly one selects the kind of the task.
pub const TASK_KIND_FIELDS: &str = "retrieval and zeroShot";

/// CEL rule of an evaluation: a gate compares a metric of its task's kind.
// CEL knows a metric by its name only: those of retrieval contain a dot, and no others do.
#[cfg(feature = "kube")]
pub(crate) const GATE_METRIC_RULE: &str = "!has(self.gate) || self.tasks.all(t, t.name != self.gate.task || has(t.retrieval) == self.gate.metric.contains('.'))";

/// The message where a gate compares a metric of another kind of task.
#[cfg(feature = "kube")]
pub const GATE_METRIC_MESSAGE: &str = "gate.metric must be one of the task's kind: textToImage.… and imageToText.… of a retrieval, the others of a zeroShot";

/// A kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Retrieval in both directions.
    Retrieval,
    /// Zero-shot classification.
    ZeroShot,
}

impl TaskKind {
    /// Every kind, in the order of their tables.
    pub const ALL: [Self; 2] = [Self::Retrieval, Self::ZeroShot];

    /// Its title on the report page.
    pub fn title(self) -> &'static str {
        match self {
            Self::Retrieval => "retrieval",
            Self::ZeroShot => "zero-shot",
        }
    }
}

metric::declare_metrics! {
    /// Text-to-image recall at 1.
    TextToImageR1 = "textToImage.r1", "R@1 text→image", of Retrieval;
    /// Text-to-image recall at 5.
    TextToImageR5 = "textToImage.r5", "R@5 text→image", of Retrieval;
    /// Text-to-image recall at 10.
    TextToImageR10 = "textToImage.r10", "R@10 text→image", of Retrieval;
    /// Mean of text-to-image R@1, R@5 and R@10.
    TextToImageMeanRecall = "textToImage.meanRecall", "mean recall text→image", of Retrieval;
    /// Image-to-text recall at 1.
    ImageToTextR1 = "imageToText.r1", "R@1 image→text", of Retrieval;
    /// Image-to-text recall at 5.
    ImageToTextR5 = "imageToText.r5", "R@5 image→text", of Retrieval;
    /// Image-to-text recall at 10.
    ImageToTextR10 = "imageToText.r10", "R@10 image→text", of Retrieval;
    /// Mean of image-to-text R@1, R@5 and R@10.
    ImageToTextMeanRecall = "imageToText.meanRecall", "mean recall image→text", of Retrieval;
    /// Top-1 accuracy.
    Accuracy = "accuracy", "accuracy", of ZeroShot;
    /// Top-5 accuracy.
    Top5 = "top5", "top-5 accuracy", of ZeroShot;
    /// Mean per-class accuracy.
    MeanPerClass = "meanPerClass", "mean per class", of ZeroShot;
    /// Area under the ROC curve, for two classes.
    RocAuc = "rocAuc", "ROC AUC", of ZeroShot;
    /// 11-point interpolated mean average precision.
    MeanAveragePrecision = "meanAveragePrecision", "11-point mAP", of ZeroShot;
}

/// Evaluation task.
#[cfg(feature = "kube")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.retrieval) != has(self.zeroShot)").message("give exactly one of retrieval and zeroShot"))]
pub struct TaskSpec {
    /// Name of the task.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Image-text retrieval in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalSpec>,
    /// Zero-shot image classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShotSpec>,
}

#[cfg(feature = "kube")]
impl TaskSpec {
    /// What the trainer reads of it.
    pub fn to_config(&self) -> TaskConfig {
        TaskConfig {
            name: self.name.clone(),
            retrieval: self.retrieval.as_ref().map(RetrievalSpec::to_config),
            zero_shot: self.zero_shot.as_ref().map(ZeroShotSpec::to_config),
        }
    }

    /// Whether it is a task of this kind.
    pub fn is_kind(&self, kind: TaskKind) -> bool {
        match kind {
            TaskKind::Retrieval => self.retrieval.is_some(),
            TaskKind::ZeroShot => self.zero_shot.is_some(),
        }
    }
}

/// One task, as the trainer reads it. Exactly one of its kinds is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskConfig {
    /// Name of the task.
    pub name: String,
    /// Retrieval in both directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalConfig>,
    /// Zero-shot classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShotConfig>,
}

/// The one kind that a [`TaskConfig`] gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SelectedTask<'a> {
    /// Retrieval in both directions.
    Retrieval(&'a RetrievalConfig),
    /// Zero-shot classification.
    ZeroShot(&'a ZeroShotConfig),
}

impl TaskConfig {
    /// The kind that is given; `None` where none or several are.
    ///
    /// ```
    /// use cnclip_crds::tasks::{SelectedTask, TaskConfig};
    ///
    /// let json = r#"{"name": "muge", "retrieval": {"dataset": "s3://data/MUGE/valid"}}"#;
    /// let task: TaskConfig = serde_json::from_str(json)?;
    /// assert!(matches!(task.select(), Some(SelectedTask::Retrieval(_))));
    ///
    /// let empty: TaskConfig = serde_json::from_str(r#"{"name": "muge"}"#)?;
    /// assert_eq!(empty.select(), None);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn select(&self) -> Option<SelectedTask<'_>> {
        let Self {
            name: _,
            retrieval,
            zero_shot,
        } = self;

        match (retrieval, zero_shot) {
            (Some(retrieval), None) => Some(SelectedTask::Retrieval(retrieval)),
            (None, Some(zero_shot)) => Some(SelectedTask::ZeroShot(zero_shot)),
            // The configuration may be written by hand, where no CEL rule ensures exactly one.
            (None, None) | (Some(_), Some(_)) => None,
        }
    }
}

/// What one task measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskResult {
    /// Name of the task.
    pub name: String,
    /// The data set.
    pub dataset: String,
    /// sha256 of what describes the data set: its index, or its list of files.
    #[serde(default)]
    pub digest: String,
    /// Images in it that could be used.
    pub images: i64,
    /// How long it took.
    pub seconds: f64,
    /// The scores.
    // Flattened: the kind becomes a key, `retrieval` or `zeroShot`, as in the manifest and in the
    // status.
    #[serde(flatten)]
    pub measured: TaskScores,
}

/// The scores of a task, by its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskScores {
    /// Of a retrieval.
    Retrieval(RetrievalScores),
    /// Of a zero-shot classification.
    ZeroShot(ZeroShotScores),
}

impl TaskScores {
    /// The kind of the task.
    pub fn kind(&self) -> TaskKind {
        match self {
            Self::Retrieval(_) => TaskKind::Retrieval,
            Self::ZeroShot(_) => TaskKind::ZeroShot,
        }
    }

    /// One of the scores; `None` where it was not measured.
    fn find_score(&self, metric: Metric) -> Option<f64> {
        match self {
            Self::Retrieval(scores) => scores.find_score(metric),
            Self::ZeroShot(scores) => scores.find_score(metric),
        }
    }

    /// The metric that the task is compared by.
    fn primary_metric(&self) -> Metric {
        match self {
            Self::Retrieval(_) => RetrievalScores::PRIMARY_METRIC,
            Self::ZeroShot(scores) => scores.headline,
        }
    }

    /// The prompt templates that were used, where the task has any.
    pub fn templates(&self) -> Option<&TemplatesReport> {
        match self {
            Self::Retrieval(_) => None,
            Self::ZeroShot(scores) => Some(&scores.templates),
        }
    }
}

impl TaskResult {
    /// One of its scores; `None` where it was not measured.
    pub fn find_score(&self, metric: Metric) -> Option<f64> {
        self.measured.find_score(metric)
    }

    /// The metric that the task is compared by: R@1 from texts to images, or that of its data set.
    pub fn primary_metric(&self) -> Metric {
        self.measured.primary_metric()
    }

    /// The score that the task is compared by, as the status shows it.
    pub fn primary_metric_status(&self) -> PrimaryMetricStatus {
        let metric = self.primary_metric();
        PrimaryMetricStatus {
            task: self.name.clone(),
            metric: metric.name().to_owned(),
            score: self.find_score(metric).map(format_percent),
        }
    }

    /// The result as the status shows it.
    pub fn to_status(&self) -> ResultStatus {
        let mut status = ResultStatus {
            name: self.name.clone(),
            images: self.images,
            ..ResultStatus::default()
        };

        match &self.measured {
            TaskScores::Retrieval(scores) => status.retrieval = Some(scores.to_status()),
            TaskScores::ZeroShot(scores) => status.zero_shot = Some(scores.to_status()),
        }

        status
    }
}

/// Primary metric of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrimaryMetricStatus {
    /// Name of the task.
    pub task: String,
    /// Name of the metric.
    pub metric: String,
    /// Value in percent; unset if the data set has no ground truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
}

/// Result of an evaluation task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultStatus {
    /// Name of the task.
    pub name: String,
    /// Number of candidate images.
    pub images: i64,
    /// Result of a retrieval task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalStatus>,
    /// Result of a zero-shot classification task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShotStatus>,
}

impl ResultStatus {
    /// One of its scores as text; `None` where it was not measured.
    pub fn find_score(&self, metric: Metric) -> Option<&str> {
        match metric.task_kind() {
            TaskKind::Retrieval => self.retrieval.as_ref()?.find_score(metric),
            TaskKind::ZeroShot => self.zero_shot.as_ref()?.find_score(metric),
        }
    }

    /// All its scores.
    pub fn all_scores(&self) -> Vec<(Metric, &str)> {
        let score = |&metric: &Metric| Some((metric, self.find_score(metric)?));
        Metric::ALL.iter().filter_map(score).collect()
    }

    /// The name of the metric that the task is compared by.
    pub fn primary_metric_name(&self) -> &str {
        // Destructured, so that a new kind does not compile until its metric is named here.
        let Self {
            name: _,
            images: _,
            retrieval: _,
            zero_shot,
        } = self;

        match zero_shot {
            Some(scores) => &scores.headline,
            None => RetrievalScores::PRIMARY_METRIC.name(),
        }
    }
}

/// A score in percent, as the status shows it.
// Kubernetes asks API types to avoid floats: text with fixed decimals is the same in every client.
fn format_percent(value: f64) -> String {
    format!("{value:.2}")
}

#[cfg(test)]
mod tests;
