//! Resolves a `CnClipEvaluation` to one stage, or to one stage per checkpoint of its training. Fields that it
//! leaves out default to those of the training. Pure.

mod checkpoint_series;
mod trainer_config;

use cnclip_crds::{
    artifacts,
    evaluation::{
        CheckpointWait, CnClipEvaluation, CnClipEvaluationStatus, EvaluationTrigger,
        ScoredCheckpoint,
    },
    names::{STAGE_EVALUATE, condition},
    tasks::ResultStatus,
    training::{CnClipTraining, StageStatus},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::{RunResource, TrainerDefaults, validate};
use crate::{
    observed::ObservedState,
    recorded_status::RecordedStatus,
    resolved_run::{ResolvedRun, ResolvedStage, StatusReason},
    status::summary,
};
use trainer_config::{evaluate_config, resolve_artifacts, resolve_workers};

impl RunResource for CnClipEvaluation {
    const KIND: &'static str = "evaluation";

    fn resolve_run(
        &self,
        observed: &ObservedState,
        defaults: &TrainerDefaults,
    ) -> Result<ResolvedRun, StatusReason> {
        let spec = &self.spec;
        validate::validate_evaluation(spec)?;
        let training = observed.training.as_ref();
        let workers = resolve_workers(self, training);
        let artifacts = resolve_artifacts(self, training);
        let series = spec.trigger == EvaluationTrigger::EveryCheckpoint;
        let EvaluationStages {
            stages,
            blocked_on,
            pending_on,
        } = if series {
            checkpoint_evaluations(self, training, &artifacts.uri)
        } else {
            single_evaluation(self, training, &artifacts.uri)
        };

        Ok(ResolvedRun {
            image: defaults.trainer_image(&workers),
            secret: artifacts
                .credentials
                .as_ref()
                .map(|found| found.secret_name.clone()),
            stages,
            per_checkpoint: series,
            pending_on,
            workers,
            artifacts: artifacts.uri,
            policy: spec.run_policy(),
            blocked_on,
            gate: spec.gate.clone(),
        })
    }

    fn recorded_status(&self) -> RecordedStatus {
        let status = self.status.clone().unwrap_or_default();
        let stage = StageStatus {
            name: STAGE_EVALUATE.to_owned(),
            state: status.state,
            attempt: status.attempt,
            step: saturating_i64(status.results.len()),
            steps: saturating_i64(self.spec.tasks.len()),
            peak_rss_bytes: status.peak_rss_bytes,
            reported_at: status.reported_at.clone(),
            ..StageStatus::default()
        };

        // Stored newest first for readers; stages are in the order of their execution.
        let history: Vec<_> = status.history.into_iter().rev().collect();
        let stages = match self.spec.trigger {
            EvaluationTrigger::Once => vec![stage],
            EvaluationTrigger::EveryCheckpoint => history
                .iter()
                .map(|entry| checkpoint_series::stage_status(entry, &stage))
                .collect(),
        };

        RecordedStatus {
            stages,
            history,
            provenance: status.provenance,
            restarts: status.restarts,
            last_failure: status.last_failure,
            checkpoint: status.checkpoint,
            results: status.results,
            report: status.report,
            started_at: status.started_at,
            finished_at: status.finished_at,
            observed_generation: status.observed_generation,
            conditions: status.conditions,
            ..RecordedStatus::default()
        }
    }

    fn to_status_json(&self, recorded: &RecordedStatus) -> serde_json::Value {
        let turn = recorded
            .current_stage()
            .and_then(|index| recorded.stages.get(index));
        let stage = turn.or(recorded.stages.last()).cloned().unwrap_or_default();
        let status = CnClipEvaluationStatus {
            observed_generation: recorded.observed_generation,
            conditions: evaluation_conditions(recorded),
            state: stage.state,
            attempt: stage.attempt,
            checkpoint: recorded.checkpoint.clone(),
            results: recorded.results.clone(),
            provenance: recorded.provenance.clone(),
            history: checkpoint_series::newest_history(recorded),
            report: recorded.report.clone(),
            restarts: recorded.restarts.clone(),
            last_failure: recorded.last_failure.clone(),
            reported_at: stage.reported_at,
            peak_rss_bytes: stage.peak_rss_bytes,
            started_at: recorded.started_at.clone(),
            finished_at: recorded.finished_at.clone(),
            summary: Some(summary::evaluation_summary(recorded, self.spec.tasks.len())),
        };

        serde_json::to_value(status).unwrap_or_default()
    }

    fn current_status_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.status).unwrap_or_default()
    }

    fn task_results(&self) -> Option<&[ResultStatus]> {
        Some(self.status.as_ref().map_or(&[], |status| &status.results))
    }

    fn training_name(&self) -> Option<&str> {
        self.spec.checkpoint.training_name.as_deref()
    }

    fn baseline_name(&self) -> Option<&str> {
        let baseline = self.spec.gate.as_ref()?.not_worse_than.as_ref()?;
        Some(&baseline.evaluation_name)
    }
}

/// All conditions but `CheckpointVerified`, because an evaluation writes no checkpoints.
fn evaluation_conditions(recorded: &RecordedStatus) -> Vec<Condition> {
    let own = |found: &&Condition| found.type_ != condition::CHECKPOINT_VERIFIED;
    recorded.conditions.iter().filter(own).cloned().collect()
}

/// Stages of an evaluation, and what they wait for.
struct EvaluationStages {
    stages: Vec<ResolvedStage>,
    blocked_on: Option<StatusReason>,
    pending_on: Option<StatusReason>,
}

fn single_evaluation(
    run: &CnClipEvaluation,
    training: Option<&CnClipTraining>,
    artifacts: &str,
) -> EvaluationStages {
    let (checkpoint, blocked_on) = match resolve_checkpoint(run, training) {
        Ok(checkpoint) => (checkpoint, None),
        // Never used: nothing is started while `blocked_on` has a reason.
        Err(cause) => (String::new(), Some(cause)),
    };

    let config = evaluate_config(
        run,
        training,
        STAGE_EVALUATE,
        checkpoint,
        artifacts.to_owned(),
    );

    let stage = ResolvedStage {
        name: STAGE_EVALUATE.to_owned(),
        config,
        scored_checkpoint: None,
    };

    EvaluationStages {
        stages: vec![stage],
        blocked_on,
        pending_on: None,
    }
}

fn checkpoint_evaluations(
    run: &CnClipEvaluation,
    training: Option<&CnClipTraining>,
    artifacts: &str,
) -> EvaluationStages {
    let entries = checkpoint_series::list_checkpoints(run, training);
    let stage = |entry: &ScoredCheckpoint| {
        let name = entry.name.clone();
        let uri = entry.checkpoint.clone();
        let config = evaluate_config(
            run,
            training,
            &name,
            uri,
            // A prefix of its own: the results of one checkpoint must not overwrite those of
            // another.
            artifacts::join_uri(artifacts, &name),
        );
        ResolvedStage {
            name,
            config,
            scored_checkpoint: Some(entry.clone()),
        }
    };

    let missing = training.is_none().then(|| training_missing(run));
    EvaluationStages {
        pending_on: missing
            .clone()
            .or_else(|| checkpoint_series::pending_reason(training?, &entries)),
        stages: entries.iter().map(stage).collect(),
        blocked_on: missing,
    }
}

fn training_missing(run: &CnClipEvaluation) -> StatusReason {
    let message = format!(
        "waits for CnClipTraining {}, which is not in namespace {}: apply it, or correct \
         spec.checkpoint.trainingName",
        run.training_name().unwrap_or_default(),
        run.namespace().unwrap_or_default()
    );

    StatusReason::new("TrainingMissing", message)
}

fn saturating_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// URI of the evaluated checkpoint, or what it waits for. A recorded URI does not change, so that all
/// attempts evaluate the same checkpoint.
fn resolve_checkpoint(
    run: &CnClipEvaluation,
    training: Option<&CnClipTraining>,
) -> Result<String, StatusReason> {
    let recorded = run
        .status
        .as_ref()
        .and_then(|status| status.checkpoint.clone());

    if let Some(uri) = run.spec.checkpoint.uri.clone() {
        return Ok(uri);
    }

    let training = training.ok_or_else(|| training_missing(run))?;
    recorded.map_or_else(
        || training_checkpoint(training, run.spec.checkpoint.when),
        Ok,
    )
}

fn training_checkpoint(
    training: &CnClipTraining,
    when: CheckpointWait,
) -> Result<String, StatusReason> {
    let name = training.name_any();
    let recorded = training.recorded_status();
    let newest = recorded.checkpoints.first();

    if when == CheckpointWait::FirstCheckpoint {
        return newest.map(|newest| newest.uri.clone()).ok_or_else(|| {
            StatusReason::new(
                "NoCheckpoint",
                format!("waits for the first checkpoint of CnClipTraining {name}"),
            )
        });
    }

    if let Some(failed) = recorded
        .find_condition(condition::FAILED)
        .filter(|_| recorded.is_condition_true(condition::FAILED))
    {
        let message = format!(
            "waits for CnClipTraining {name}, which has failed ({}): set spec.checkpoint.when to \
             FirstCheckpoint in another evaluation to score its newest checkpoint",
            failed.reason
        );

        return Err(StatusReason::new("TrainingFailed", message));
    }

    let last = training
        .spec
        .stages
        .last()
        .filter(|_| recorded.is_condition_true(condition::COMPLETE));

    // The prefix of the stage: the trainer reads `final.json` there, which names the best
    // checkpoint if the stage was validated.
    last.map(|last| artifacts::stage_prefix(&training.spec.artifacts.uri, &last.name))
        .ok_or_else(|| {
            let message = format!("waits until CnClipTraining {name} is complete");
            StatusReason::new("TrainingNotComplete", message)
        })
}

#[cfg(test)]
mod tests;
