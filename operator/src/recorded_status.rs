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

    /// Whether something changed that runs which reference this one wait for.
    pub fn has_news_for_dependents(&self, before: &Self) -> bool {
        // Not the numbers of the progress, which change every few seconds.
        self.checkpoints != before.checkpoints
            || self.results != before.results
            || self.has_ended() != before.has_ended()
            || self.observed_generation != before.observed_generation
    }

    /// Whether the last failure is that of an attempt.
    pub fn has_failure_of_attempt(&self, stage: &str, attempt: i32) -> bool {
        self.last_failure
            .as_ref()
            .is_some_and(|failure| failure.stage == stage && failure.attempt == attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependents_learn_of_checkpoints_results_ends_and_edits_and_not_of_steps() {
        let before = RecordedStatus {
            stages: vec![StageStatus::default()],
            observed_generation: Some(1),
            ..RecordedStatus::default()
        };

        let mut step = before.clone();
        step.stages[0].step = 7;
        assert!(!step.has_news_for_dependents(&before));
        let mut checkpoint = before.clone();
        checkpoint.checkpoints = vec![CheckpointStatus::default()];
        let mut result = before.clone();
        result.results = vec![ResultStatus::default()];
        let mut edit = before.clone();
        edit.observed_generation = Some(2);
        let mut end = before.clone();
        end.conditions = vec![
            serde_json::from_value(serde_json::json!({
                "type": "Failed", "status": "True", "reason": "Data", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }))
            .unwrap(),
        ];

        for after in [checkpoint, result, edit, end] {
            assert!(after.has_news_for_dependents(&before), "{after:?}");
        }
    }
}
