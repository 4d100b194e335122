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

pub use metric::Metric;
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

/// A kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Retrieval in both directions.
    Retrieval,
    /// Zero-shot classification.
    ZeroShot,
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
        match (&self.retrieval, &self.zero_shot) {
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
        self.zero_shot
            .as_ref()
            .map_or(RetrievalScores::PRIMARY_METRIC.name(), |scores| {
                &scores.headline
            })
    }
}

/// A score in percent, as the status shows it.
// Kubernetes asks API types to avoid floats: text with fixed decimals is the same in every client.
fn format_percent(value: f64) -> String {
    format!("{value:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(measured: TaskScores) -> TaskResult {
        let (name, dataset) = ("muge".to_owned(), "s3://data/muge/valid/".to_owned());
        TaskResult {
            name,
            dataset,
            digest: String::new(),
            images: 3,
            seconds: 1.0,
            measured,
        }
    }

    #[test]
    fn every_number_is_found_by_its_name_and_only_there() {
        let recall = |r1| RecallAtK {
            r1,
            r5: r1 + 1.0,
            r10: r1 + 2.0,
            mean_recall: r1 + 3.0,
        };

        let recalls = RetrievalRecalls {
            text_to_image: recall(10.0),
            image_to_text: recall(20.0),
        };

        let scores = RetrievalScores {
            texts: 5,
            recalls: Some(recalls),
            threshold: None,
        };

        let retrieval = result(TaskScores::Retrieval(scores));
        let zero_shot = result(TaskScores::ZeroShot(ZeroShotScores {
            classes: 2,
            headline: Metric::RocAuc,
            accuracy: 1.0,
            top5: 2.0,
            mean_per_class: 3.0,
            roc_auc: Some(4.0),
            mean_average_precision: 5.0,
            templates: TemplatesReport::default(),
        }));

        let named = |name: &str| serde_json::from_str::<Metric>(&format!("\"{name}\"")).unwrap();
        for (name, value) in [
            ("textToImage.r1", 10.0),
            ("textToImage.r5", 11.0),
            ("textToImage.r10", 12.0),
            ("textToImage.meanRecall", 13.0),
            ("imageToText.r1", 20.0),
            ("imageToText.r5", 21.0),
            ("imageToText.r10", 22.0),
            ("imageToText.meanRecall", 23.0),
        ] {
            assert_eq!(retrieval.find_score(named(name)), Some(value), "{name}");
            assert_eq!(zero_shot.find_score(named(name)), None, "{name}");
            assert_eq!(named(name).name(), name);
        }

        let names = [
            "accuracy",
            "top5",
            "meanPerClass",
            "rocAuc",
            "meanAveragePrecision",
        ];

        for (name, value) in names.into_iter().zip([1.0, 2.0, 3.0, 4.0, 5.0]) {
            assert_eq!(zero_shot.find_score(named(name)), Some(value), "{name}");
            assert_eq!(retrieval.find_score(named(name)), None, "{name}");
            assert_eq!(named(name).name(), name);
        }

        assert_eq!(zero_shot.primary_metric(), Metric::RocAuc);
    }

    #[test]
    fn a_result_reads_like_the_task_that_asked_for_it() {
        let scores = RetrievalScores {
            texts: 5,
            ..RetrievalScores::default()
        };

        let json = serde_json::to_value(result(TaskScores::Retrieval(scores))).unwrap();
        assert_eq!(json["retrieval"], serde_json::json!({"texts": 5}));
    }
}
