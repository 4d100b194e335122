//! Recorded status of a run, common to both kinds. The status is the operator's only memory: a restarted
//! operator continues from it.

use cnclip_crds::{
    common::{LastFailure, RestartCounts},
    evaluation::{EvaluationProvenance, ScoredCheckpoint},
    names::condition,
    tasks::ResultStatus,
    training::{CheckpointStatus, StageState, StageStatus},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The status of a run, common to both kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordedStatus {
    /// Status of every stage, in order.
    pub stages: Vec<StageStatus>,
    /// Number of restarts.
    pub restarts: RestartCounts,
    /// Most recent failure.
    pub last_failure: Option<LastFailure>,
    /// Most recent complete checkpoints, newest first.
    pub checkpoints: Vec<CheckpointStatus>,
    /// URI of the evaluated checkpoint, once resolved.
    pub checkpoint: Option<String>,
    /// Evaluated checkpoints of a series, one per stage.
    pub history: Vec<ScoredCheckpoint>,
    /// Provenance of the results.
    pub provenance: Option<EvaluationProvenance>,
    /// Results of an evaluation.
    pub results: Vec<ResultStatus>,
    /// URI of the HTML report, once written.
    pub report: Option<String>,
    /// Creation time of the first pod.
    pub started_at: Option<String>,
    /// Completion time.
    pub finished_at: Option<String>,
    /// The `metadata.generation` that this status reflects.
    pub observed_generation: Option<i64>,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

impl RecordedStatus {
    /// The condition of a type.
    pub fn find_condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }

    /// Whether a condition has status True.
    pub fn is_condition_true(&self, type_: &str) -> bool {
        self.find_condition(type_)
            .is_some_and(|condition| condition.status == "True")
    }

    /// Whether the run is complete or failed.
    pub fn has_ended(&self) -> bool {
        self.is_condition_true(condition::COMPLETE) || self.is_condition_true(condition::FAILED)
    }

    /// Index of the first stage that is neither succeeded nor skipped; `None` if there is none.
    pub fn current_stage(&self) -> Option<usize> {
        let over = |stage: &StageStatus| {
            matches!(stage.state, StageState::Succeeded | StageState::Skipped)
        };
        self.stages.iter().position(|stage| !over(stage))
    }

    /// Whether the last failure is that of an attempt.
    pub fn has_failure_of_attempt(&self, stage: &str, attempt: i32) -> bool {
        self.last_failure
            .as_ref()
            .is_some_and(|failure| failure.stage == stage && failure.attempt == attempt)
    }
}
