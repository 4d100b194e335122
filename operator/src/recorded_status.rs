//! What is on record of a run, in one form for both kinds: the status, read and written back. It is
//! the operator's only memory. Decides nothing.

use cnclip_crds::{
    common::{LastFailure, RestartCounts},
    evaluation::{EvaluationProvenance, ScoredCheckpoint},
    names::condition,
    tasks::ResultStatus,
    training::{CheckpointStatus, StageState, StageStatus},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// What is on record of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordedStatus {
    /// Every stage, in order.
    pub stages: Vec<StageStatus>,
    /// Restarts so far.
    pub restarts: RestartCounts,
    /// The last thing that went wrong.
    pub last_failure: Option<LastFailure>,
    /// The newest whole checkpoints, newest first.
    pub checkpoints: Vec<CheckpointStatus>,
    /// What an evaluation scores, once known.
    pub checkpoint: Option<String>,
    /// What the stages of a series score, stage by stage.
    pub history: Vec<ScoredCheckpoint>,
    /// What the results are of, and what made them.
    pub provenance: Option<EvaluationProvenance>,
    /// What an evaluation measured.
    pub results: Vec<ResultStatus>,
    /// Where the page for people is, once written.
    pub report: Option<String>,
    /// When the first pod was made.
    pub started_at: Option<String>,
    /// When it ended.
    pub finished_at: Option<String>,
    /// The `metadata.generation` that this speaks of.
    pub observed_generation: Option<i64>,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

impl RecordedStatus {
    /// One condition.
    pub fn find_condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }

    /// Whether a condition is True.
    pub fn is_condition_true(&self, type_: &str) -> bool {
        self.find_condition(type_)
            .is_some_and(|condition| condition.status == "True")
    }

    /// Whether the run has ended, well or badly.
    pub fn has_ended(&self) -> bool {
        self.is_condition_true(condition::COMPLETE) || self.is_condition_true(condition::FAILED)
    }

    /// The number of the stage whose turn it is; `None` when all are done.
    pub fn current_stage(&self) -> Option<usize> {
        let over = |stage: &StageStatus| {
            matches!(stage.state, StageState::Succeeded | StageState::Skipped)
        };
        self.stages.iter().position(|stage| !over(stage))
    }

    /// Whether the last failure is that of this attempt.
    pub fn has_failure_of_attempt(&self, stage: &str, attempt: i32) -> bool {
        self.last_failure
            .as_ref()
            .is_some_and(|failure| failure.stage == stage && failure.attempt == attempt)
    }
}
