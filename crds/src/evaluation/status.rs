//! What the operator last saw of an evaluation. Only the operator writes it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{LastFailure, RecallsStatus, RestartCounts},
    report::{Metric, TemplatesReport},
    training::StageState,
};

/// What the operator last saw of the evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CnClipEvaluationStatus {
    /// The `metadata.generation` that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// All of them from the first write on.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How it stands.
    #[serde(default)]
    pub state: StageState,
    /// Attempts made, the present one included.
    #[serde(default)]
    pub attempt: i32,
    /// What is scored, once it is known; of several, the one whose turn it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// What was measured; of several checkpoints, of the newest that is wholly scored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<ResultStatus>,
    /// What the results are of, and what made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<EvaluationProvenance>,
    /// Where trigger is EveryCheckpoint: the newest 50 checkpoints, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ScoredCheckpoint>,
    /// Where the report is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Restarts so far.
    #[serde(default)]
    pub restarts: RestartCounts,
    /// The last thing that went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// When the trainer last said something (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<String>,
    /// The most memory the worker held, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<i64>,
    /// When the first pod was made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// For the eye: the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<EvaluationSummary>,
}

/// What the results are of, and what made them: enough to find or to repeat them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationProvenance {
    /// The weights that were found.
    pub checkpoint: String,
    /// sha256 of the checkpoint's manifest; none of weights that others published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The data set of each task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<DatasetProvenance>,
    /// The trainer's image, as the manifest or the operator names it.
    pub image: String,
    /// The same with the digest that the node started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// The trainer's version.
    pub version: String,
}

/// The data set of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetProvenance {
    /// Name of the task.
    pub task: String,
    /// Where it is.
    pub uri: String,
    /// sha256 of its index, or of its list of files.
    pub digest: String,
    /// Of a zero-shot classification, what the names of the classes were put into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<TemplatesReport>,
}

/// One of a training's checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScoredCheckpoint {
    /// What its scoring is called: part of the names of its pods, and the folder of its results under
    /// the prefix of the artifacts.
    pub name: String,
    /// How that stands.
    #[serde(default)]
    pub state: StageState,
    /// Attempts made, the present one included.
    #[serde(default)]
    pub attempt: i32,
    /// Stage of the training that made it.
    pub stage: String,
    /// Steps completed in that stage.
    pub step: i64,
    /// Where it is.
    pub checkpoint: String,
    /// sha256 of its manifest.
    pub digest: String,
    /// The number that each task is compared by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<PrimaryMetricStatus>,
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was scored or skipped (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
}

/// The number that a task is compared by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrimaryMetricStatus {
    /// Name of the task.
    pub task: String,
    /// Name of the number.
    pub metric: String,
    /// The number, in percent; none where the data set does not say what is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
}

/// What one task measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultStatus {
    /// Name of the task.
    pub name: String,
    /// Images in the pool.
    pub images: i64,
    /// Of a retrieval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalStatus>,
    /// Of a zero-shot classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShotStatus>,
}

impl ResultStatus {
    /// One of its numbers; `None` if it has no such one.
    pub fn find_score(&self, metric: Metric) -> Option<&str> {
        self.all_scores()
            .into_iter()
            .find_map(|(name, score)| (name == metric).then_some(score))
    }

    /// All its numbers.
    pub fn all_scores(&self) -> Vec<(Metric, &str)> {
        let recalls = self
            .retrieval
            .as_ref()
            .and_then(|found| found.recalls.as_ref());

        let recalls = recalls.map(recall_scores).unwrap_or_default();
        recalls
            .into_iter()
            .chain(self.zero_shot.iter().flat_map(zero_shot_scores))
            .collect()
    }
}

fn recall_scores(recalls: &RecallsStatus) -> Vec<(Metric, &str)> {
    let RecallsStatus {
        text_to_image: there,
        image_to_text: back,
    } = recalls;

    vec![
        (Metric::TextToImageR1, &there.r1),
        (Metric::TextToImageR5, &there.r5),
        (Metric::TextToImageR10, &there.r10),
        (Metric::TextToImageMeanRecall, &there.mean_recall),
        (Metric::ImageToTextR1, &back.r1),
        (Metric::ImageToTextR5, &back.r5),
        (Metric::ImageToTextR10, &back.r10),
        (Metric::ImageToTextMeanRecall, &back.mean_recall),
    ]
}

fn zero_shot_scores(scores: &ZeroShotStatus) -> Vec<(Metric, &str)> {
    let some: [(Metric, &str); 4] = [
        (Metric::Accuracy, &scores.accuracy),
        (Metric::Top5, &scores.top5),
        (Metric::MeanPerClass, &scores.mean_per_class),
        (Metric::MeanAveragePrecision, &scores.mean_average_precision),
    ];

    let area = scores.roc_auc.as_deref().map(|area| (Metric::RocAuc, area));
    some.into_iter().chain(area).collect()
}

/// What a retrieval measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalStatus {
    /// Texts in the pool.
    pub texts: i64,
    /// Recall in both directions; none where the data set does not say what belongs together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalls: Option<RecallsStatus>,
    /// How similar the first image must be to a text, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<ThresholdStatus>,
}

/// The similarity below which there is no match for a text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ThresholdStatus {
    /// Whether any similarity reaches the precision that was asked for; if none does, the others are the
    /// best numbers there are.
    pub reached: bool,
    /// The inner product of unit features.
    pub similarity: String,
    /// First answers at least so similar that are right, in percent.
    pub precision: String,
    /// Texts whose first answer is at least so similar, in percent.
    pub coverage: String,
}

/// What a zero-shot classification measured, in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZeroShotStatus {
    /// How many classes there are.
    pub classes: i64,
    /// Name of the number that this data set is compared by.
    pub headline: String,
    /// Images whose most probable class is theirs.
    pub accuracy: String,
    /// Images whose class is among the five most probable.
    pub top5: String,
    /// Mean over the classes of the share of their images that are told right.
    pub mean_per_class: String,
    /// Area under the receiver operating characteristic, of two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<String>,
    /// Mean over the classes of the 11-point interpolated average precision.
    pub mean_average_precision: String,
}

/// The columns of `kubectl get`: the number that the first task is compared by, and the recalls of the
/// first retrieval from texts to images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationSummary {
    /// Such as `2/3`.
    pub tasks: String,
    /// Name of the number that the first task is compared by.
    #[serde(default)]
    pub metric: String,
    /// That number in percent: `kubectl get cce --sort-by=.status.summary.score`.
    #[serde(default)]
    pub score: String,
    /// `Passed`, `Failed` or `Waiting`; nothing without a gate.
    #[serde(default)]
    pub gate: String,
    /// R@1 in percent.
    pub r1: String,
    /// R@5 in percent.
    pub r5: String,
    /// R@10 in percent.
    pub r10: String,
    /// Mean of the three.
    pub mean_recall: String,
}
