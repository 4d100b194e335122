//! Quality gates and triggers of evaluations.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::defaults;
use crate::tasks::Metric;

/// Quality gate: required value of a metric. Compared with the value in the status, rounded to two decimals.
/// The condition `GatePassed` reports the result; a gate that does not pass does not fail the evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.atLeast) != has(self.notWorseThan)").message("give exactly one of atLeast and notWorseThan"))]
pub struct GateSpec {
    /// Name of the evaluation task.
    #[schemars(length(min = 1, max = 63))]
    pub task: String,
    /// Metric of the task: recalls for retrieval tasks, the other metrics for zero-shot classification tasks.
    pub metric: Metric,
    /// Minimum value in percent, such as "76".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?$') && double(self) <= 100.0").message("must be a decimal from 0 to 100 such as \"76\" or \"58.4\""))]
    #[schemars(length(min = 1, max = 24))]
    pub at_least: Option<String>,
    /// Baseline evaluation whose value must be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_worse_than: Option<GateBaseline>,
}

/// Baseline of a gate: another evaluation of the same task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateBaseline {
    /// Name of a `CnClipEvaluation` in the same namespace that has a task of the same name. The gate waits
    /// for its result.
    #[schemars(length(min = 1, max = 253))]
    pub evaluation_name: String,
    /// Maximum regression in percentage points, such as "0.5".
    #[serde(default = "defaults::gate_tolerance")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?$') && double(self) <= 100.0").message("must be a decimal from 0 to 100 such as \"0.5\""))]
    #[schemars(length(min = 1, max = 24))]
    pub tolerance: String,
}

/// Trigger of the evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EvaluationTrigger {
    /// Evaluate one checkpoint, once.
    #[default]
    Once,
    /// Evaluate every checkpoint of the training in its own pods until the training ends. Checkpoints that
    /// the training deletes before their evaluation starts are skipped.
    EveryCheckpoint,
}
