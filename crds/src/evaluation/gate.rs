//! What a checkpoint must reach to pass: a number of one task, alone or beside another evaluation's.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::report::Metric;

/// What one number must reach. It is compared as the status shows it, with two decimals. The condition
/// `GatePassed` tells the outcome; a gate that is not passed does not fail the evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.atLeast) != has(self.notWorseThan)").message("give exactly one of atLeast and notWorseThan"))]
pub struct GateSpec {
    /// Name of the task.
    #[schemars(length(min = 1, max = 63))]
    pub task: String,
    /// Which of its numbers: recalls are those of a retrieval, the others of a zero-shot classification.
    pub metric: Metric,
    /// The least that passes, in percent, such as "76".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?$') && double(self) <= 100.0").message("must be a decimal from 0 to 100 such as \"76\" or \"58.4\""))]
    #[schemars(length(min = 1, max = 24))]
    pub at_least: Option<String>,
    /// The evaluation whose number it must reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_worse_than: Option<GateBaseline>,
}

/// Another evaluation, of the same task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateBaseline {
    /// A `CnClipEvaluation` in the same namespace with a task of that name. The gate waits for its result.
    #[schemars(length(min = 1, max = 253))]
    pub evaluation_name: String,
    /// How much less still passes, in points of percent, such as "0.5".
    #[serde(default = "none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?$') && double(self) <= 100.0").message("must be a decimal from 0 to 100 such as \"0.5\""))]
    #[schemars(length(min = 1, max = 24))]
    pub tolerance: String,
}

fn none() -> String {
    "0".to_owned()
}

/// When checkpoints are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EvaluationTrigger {
    /// One checkpoint, once.
    #[default]
    Once,
    /// Every checkpoint of the training as it appears, each by pods of its own, until the training has
    /// ended. One that the training deletes before its turn is skipped.
    EveryCheckpoint,
}
