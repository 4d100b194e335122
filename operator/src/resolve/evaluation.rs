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
            queue: spec.queue_name.clone(),
            retries: spec.retries.clone(),
            start_deadline_seconds: spec.start_deadline_seconds,
            deadline_seconds: spec.deadline_seconds,
            ttl_seconds: spec.ttl_seconds_after_finished,
            suspend: spec.suspend,
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
mod tests {
    use cnclip_crds::trainer_config::EvaluateConfig;
    use serde_json::{Value, json};

    use super::*;
    use crate::{manifest_fixtures, resolved_run::TrainerConfig};

    fn observed(status: Value) -> ObservedState {
        let mut training = manifest_fixtures::sample_training();
        training.status = Some(serde_json::from_value(status).unwrap());
        ObservedState {
            training: Some(training),
            ..ObservedState::default()
        }
    }

    fn condition(type_: &str) -> Value {
        json!([{"type": type_, "status": "True", "reason": "Because", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    fn config(resolved: &ResolvedRun) -> &EvaluateConfig {
        match &resolved.stages[0].config {
            TrainerConfig::Evaluate(config) => config,
            TrainerConfig::Train(_) => panic!("an evaluation scores"),
        }
    }

    #[test]
    fn an_evaluation_says_what_it_waits_for() {
        let checkpoint = json!([{"stage": "align", "step": 5, "uri": "s3://runs/muge/align/checkpoints/5",
                                 "digest": "d", "writtenAt": "2026-01-01T00:00:00Z"}]);
        let rows = [
            ("Complete", json!({}), Some("TrainingNotComplete")),
            (
                "Complete",
                json!({"checkpoints": checkpoint}),
                Some("TrainingNotComplete"),
            ),
            (
                "Complete",
                json!({"conditions": condition("Failed")}),
                Some("TrainingFailed"),
            ),
            (
                "Complete",
                json!({"conditions": condition("Complete")}),
                None,
            ),
            ("FirstCheckpoint", json!({}), Some("NoCheckpoint")),
            ("FirstCheckpoint", json!({"checkpoints": checkpoint}), None),
        ];
        for (when, status, expected) in rows {
            let source = json!({"trainingName": "muge", "when": when});
            let run = manifest_fixtures::sample_evaluation_with("/checkpoint", source);
            let resolved = run
                .resolve_run(
                    &observed(status.clone()),
                    &manifest_fixtures::trainer_defaults(),
                )
                .unwrap();

            assert_eq!(
                resolved.blocked_on.map(|cause| cause.reason),
                expected,
                "{when} {status}"
            );
        }
        let resolved = manifest_fixtures::sample_evaluation()
            .resolve_run(
                &ObservedState::default(),
                &manifest_fixtures::trainer_defaults(),
            )
            .unwrap();
        assert_eq!(resolved.blocked_on.unwrap().reason, "TrainingMissing");
    }

    #[test]
    fn what_an_evaluation_leaves_out_is_its_trainings() {
        let observed = observed(json!({"conditions": condition("Complete")}));
        let resolved = manifest_fixtures::sample_evaluation()
            .resolve_run(&observed, &manifest_fixtures::trainer_defaults())
            .unwrap();

        assert_eq!(resolved.secret.as_deref(), Some("s3"));
        assert_eq!(resolved.artifacts, "s3://runs/muge/evaluations/muge-scores");
        assert_eq!(
            resolved.workers.resources,
            manifest_fixtures::sample_training().spec.workers.resources
        );

        assert_eq!(config(&resolved).checkpoint, "s3://runs/muge/tune");
    }

    #[test]
    fn a_vocabulary_of_its_own_is_read_instead_of_its_trainings() {
        let mut training = manifest_fixtures::sample_training();
        let file = |uri| serde_json::from_value(json!({"uri": uri})).unwrap();
        training.spec.model.vocabulary = Some(file("s3://data/trainings.txt"));
        let observed = ObservedState {
            training: Some(training),
            ..ObservedState::default()
        };

        let told = |run: &CnClipEvaluation| {
            let resolved = run
                .resolve_run(&observed, &manifest_fixtures::trainer_defaults())
                .unwrap();
            config(&resolved).vocabulary.clone().unwrap().uri
        };

        assert_eq!(
            told(&manifest_fixtures::sample_evaluation()),
            "s3://data/trainings.txt"
        );
        let own = manifest_fixtures::sample_evaluation_with(
            "/vocabulary",
            json!({"uri": "s3://data/own.txt"}),
        );
        assert_eq!(told(&own), "s3://data/own.txt");
    }

    #[test]
    fn an_evaluation_takes_one_of_its_trainings_workers_or_all_that_it_asks_for() {
        let mut training = manifest_fixtures::sample_training();
        (
            training.spec.workers.replicas,
            training.spec.workers.devices,
        ) = (3, 2);

        let observed = ObservedState {
            training: Some(training),
            ..ObservedState::default()
        };

        let sizes = |run: &CnClipEvaluation| {
            let resolved = run
                .resolve_run(&observed, &manifest_fixtures::trainer_defaults())
                .unwrap();
            let told = &config(&resolved).world;
            assert_eq!(
                (told.replicas, told.devices),
                (resolved.workers.replicas, resolved.workers.devices)
            );

            (told.replicas, told.devices)
        };

        assert_eq!(sizes(&manifest_fixtures::sample_evaluation()), (1, 2));
        let workers = json!({"replicas": 4, "devices": 3, "accelerator": "Nvidia"});
        assert_eq!(
            sizes(&manifest_fixtures::sample_evaluation_with(
                "/workers", workers
            )),
            (4, 3)
        );
    }

    #[test]
    fn what_is_scored_stays_once_it_is_on_record() {
        let mut run = manifest_fixtures::sample_evaluation();
        run.status =
            Some(serde_json::from_value(json!({"checkpoint": "s3://old", "attempt": 1})).unwrap());
        let resolved = run
            .resolve_run(&observed(json!({})), &manifest_fixtures::trainer_defaults())
            .unwrap();

        assert_eq!(resolved.blocked_on, None);
        assert_eq!(config(&resolved).checkpoint, "s3://old");
    }

    #[test]
    fn a_classification_is_told_whole() {
        let asked = json!({"dataset": "s3://data/pets/", "preset": "oxford-iiit-pets",
                           "templateSet": "Pet", "templates": "s3://data/pets.txt", "metric": "top5"});
        let tasks = json!([{"name": "pets", "zeroShot": asked}]);
        let run = manifest_fixtures::sample_evaluation_with("/tasks", tasks);
        let resolved = run
            .resolve_run(&observed(json!({})), &manifest_fixtures::trainer_defaults())
            .unwrap();
        let told = serde_json::to_value(&config(&resolved).tasks[0].zero_shot).unwrap();
        assert_eq!(told, asked);
    }
}
