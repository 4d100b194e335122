//! A `CnClipEvaluation` as work: of one stage, or of one for each checkpoint of its training. What it
//! leaves out is taken from its training. Pure.

mod config;
mod series;

use cnclip_crds::{
    artifacts,
    evaluation::{
        CnClipEvaluation, CnClipEvaluationStatus, ResultStatus, ScoredCheckpoint, Trigger, When,
    },
    names::{STAGE_EVALUATE, condition},
    training::{CnClipTraining, StageStatus},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::{Defaults, Run};
use crate::{
    ledger::Ledger,
    observed::Observed,
    plan::admission,
    status::summary,
    work::{Cause, Stage, Work},
};
use config::{config, place, workers};

impl Run for CnClipEvaluation {
    const KIND: &'static str = "evaluation";

    fn work(&self, observed: &Observed, defaults: &Defaults) -> Result<Work, Cause> {
        let spec = &self.spec;
        admission::evaluation(spec)?;
        let training = observed.training.as_ref();
        let workers = workers(self, training);
        let artifacts = place(self, training);
        let series = spec.trigger == Trigger::EveryCheckpoint;
        let Todo {
            stages,
            waits_for,
            goes_on,
        } = if series {
            every(self, training, &artifacts.uri)
        } else {
            once(self, training, &artifacts.uri)
        };

        Ok(Work {
            image: defaults.image_of(&workers),
            secret: artifacts
                .credentials
                .as_ref()
                .map(|found| found.secret_name.clone()),
            stages,
            series,
            goes_on,
            workers,
            artifacts: artifacts.uri,
            queue: spec.queue_name.clone(),
            retries: spec.retries.clone(),
            start_deadline_seconds: spec.start_deadline_seconds,
            deadline_seconds: spec.deadline_seconds,
            ttl_seconds: spec.ttl_seconds_after_finished,
            suspend: spec.suspend,
            waits_for,
            gate: spec.gate.clone(),
        })
    }

    fn ledger(&self) -> Ledger {
        let status = self.status.clone().unwrap_or_default();
        let stage = StageStatus {
            name: STAGE_EVALUATE.to_owned(),
            state: status.state,
            attempt: status.attempt,
            step: count(status.results.len()),
            steps: count(self.spec.tasks.len()),
            peak_rss_bytes: status.peak_rss_bytes,
            reported_at: status.reported_at.clone(),
            ..StageStatus::default()
        };

        let history: Vec<_> = status.history.into_iter().rev().collect();
        let stages = match self.spec.trigger {
            Trigger::Once => vec![stage],
            Trigger::EveryCheckpoint => history
                .iter()
                .map(|entry| series::stage(entry, &stage))
                .collect(),
        };

        Ledger {
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
            ..Ledger::default()
        }
    }

    fn status(&self, ledger: &Ledger) -> serde_json::Value {
        let turn = ledger.current().and_then(|index| ledger.stages.get(index));
        let stage = turn.or(ledger.stages.last()).cloned().unwrap_or_default();
        let status = CnClipEvaluationStatus {
            observed_generation: ledger.observed_generation,
            conditions: conditions(ledger),
            state: stage.state,
            attempt: stage.attempt,
            checkpoint: ledger.checkpoint.clone(),
            results: ledger.results.clone(),
            provenance: ledger.provenance.clone(),
            history: series::history(ledger),
            report: ledger.report.clone(),
            restarts: ledger.restarts.clone(),
            last_failure: ledger.last_failure.clone(),
            reported_at: stage.reported_at,
            peak_rss_bytes: stage.peak_rss_bytes,
            started_at: ledger.started_at.clone(),
            finished_at: ledger.finished_at.clone(),
            summary: Some(summary::of_evaluation(ledger, self.spec.tasks.len())),
        };

        serde_json::to_value(status).unwrap_or_default()
    }

    fn present_status(&self) -> serde_json::Value {
        serde_json::to_value(&self.status).unwrap_or_default()
    }

    fn results(&self) -> Option<&[ResultStatus]> {
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

/// All but that of checkpoints, for an evaluation makes none.
fn conditions(ledger: &Ledger) -> Vec<Condition> {
    let own = |found: &&Condition| found.type_ != condition::CHECKPOINT_VERIFIED;
    ledger.conditions.iter().filter(own).cloned().collect()
}

/// What is to be done.
struct Todo {
    stages: Vec<Stage>,
    waits_for: Option<Cause>,
    goes_on: Option<Cause>,
}

fn once(run: &CnClipEvaluation, training: Option<&CnClipTraining>, artifacts: &str) -> Todo {
    let (checkpoint, waits_for) = match checkpoint(run, training) {
        Ok(checkpoint) => (checkpoint, None),
        Err(cause) => (String::new(), Some(cause)),
    };

    let config = config(
        run,
        training,
        STAGE_EVALUATE,
        checkpoint,
        artifacts.to_owned(),
    );

    let stage = Stage {
        name: STAGE_EVALUATE.to_owned(),
        config,
        scores: None,
    };

    Todo {
        stages: vec![stage],
        waits_for,
        goes_on: None,
    }
}

fn every(run: &CnClipEvaluation, training: Option<&CnClipTraining>, artifacts: &str) -> Todo {
    let entries = series::checkpoints(run, training);
    let stage = |entry: &ScoredCheckpoint| {
        let name = entry.name.clone();
        let uri = entry.checkpoint.clone();
        let config = config(run, training, &name, uri, artifacts::join(artifacts, &name));
        Stage {
            name,
            config,
            scores: Some(entry.clone()),
        }
    };

    let missing = training.is_none().then(|| missing(run));
    Todo {
        goes_on: missing
            .clone()
            .or_else(|| series::goes_on(training?, &entries)),
        stages: entries.iter().map(stage).collect(),
        waits_for: missing,
    }
}

fn missing(run: &CnClipEvaluation) -> Cause {
    let message = format!(
        "waits for CnClipTraining {}, which is not in namespace {}: apply it, or correct \
         spec.checkpoint.trainingName",
        run.training_name().unwrap_or_default(),
        run.namespace().unwrap_or_default()
    );

    Cause::new("TrainingMissing", message)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What is scored, or what must happen before that is known. Once on record it does not change.
fn checkpoint(run: &CnClipEvaluation, training: Option<&CnClipTraining>) -> Result<String, Cause> {
    let recorded = run
        .status
        .as_ref()
        .and_then(|status| status.checkpoint.clone());

    if let Some(uri) = run.spec.checkpoint.uri.clone() {
        return Ok(uri);
    }

    let training = training.ok_or_else(|| missing(run))?;
    recorded.map_or_else(|| outcome(training, run.spec.checkpoint.when), Ok)
}

fn outcome(training: &CnClipTraining, when: When) -> Result<String, Cause> {
    let name = training.name_any();
    let ledger = training.ledger();
    let newest = ledger.checkpoints.first();

    if when == When::FirstCheckpoint {
        return newest.map(|newest| newest.uri.clone()).ok_or_else(|| {
            Cause::new(
                "NoCheckpoint",
                format!("waits for the first checkpoint of CnClipTraining {name}"),
            )
        });
    }

    if let Some(failed) = ledger
        .condition(condition::FAILED)
        .filter(|_| ledger.is(condition::FAILED))
    {
        let message = format!(
            "waits for CnClipTraining {name}, which has failed ({}): set spec.checkpoint.when to \
             FirstCheckpoint in another evaluation to score its newest checkpoint",
            failed.reason
        );

        return Err(Cause::new("TrainingFailed", message));
    }

    let last = training
        .spec
        .stages
        .last()
        .filter(|_| ledger.is(condition::COMPLETE));

    last.map(|last| artifacts::stage(&training.spec.artifacts.uri, &last.name))
        .ok_or_else(|| {
            let message = format!("waits until CnClipTraining {name} is complete");
            Cause::new("TrainingNotComplete", message)
        })
}

#[cfg(test)]
mod tests {
    use cnclip_crds::run_config::EvaluateConfig;
    use serde_json::{Value, json};

    use super::*;
    use crate::{samples, work::Config};

    fn observed(status: Value) -> Observed {
        let mut training = samples::training();
        training.status = Some(serde_json::from_value(status).unwrap());
        Observed {
            training: Some(training),
            ..Observed::default()
        }
    }

    fn condition(type_: &str) -> Value {
        json!([{"type": type_, "status": "True", "reason": "Because", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    fn config(work: &Work) -> &EvaluateConfig {
        match &work.stages[0].config {
            Config::Evaluate(config) => config,
            Config::Train(_) => panic!("an evaluation scores"),
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
            let run = samples::evaluation_with("/checkpoint", source);
            let work = run
                .work(&observed(status.clone()), &samples::defaults())
                .unwrap();

            assert_eq!(
                work.waits_for.map(|cause| cause.reason),
                expected,
                "{when} {status}"
            );
        }
        let work = samples::evaluation()
            .work(&Observed::default(), &samples::defaults())
            .unwrap();
        assert_eq!(work.waits_for.unwrap().reason, "TrainingMissing");
    }

    #[test]
    fn what_an_evaluation_leaves_out_is_its_trainings() {
        let observed = observed(json!({"conditions": condition("Complete")}));
        let work = samples::evaluation()
            .work(&observed, &samples::defaults())
            .unwrap();

        assert_eq!(work.secret.as_deref(), Some("s3"));
        assert_eq!(work.artifacts, "s3://runs/muge/evaluations/muge-scores");
        assert_eq!(
            work.workers.resources,
            samples::training().spec.workers.resources
        );

        assert_eq!(config(&work).checkpoint, "s3://runs/muge/tune");
    }

    #[test]
    fn a_vocabulary_of_its_own_is_read_instead_of_its_trainings() {
        let mut training = samples::training();
        let file = |uri| serde_json::from_value(json!({"uri": uri})).unwrap();
        training.spec.model.vocabulary = Some(file("s3://data/trainings.txt"));
        let observed = Observed {
            training: Some(training),
            ..Observed::default()
        };

        let told = |run: &CnClipEvaluation| {
            let work = run.work(&observed, &samples::defaults()).unwrap();
            config(&work).vocabulary.clone().unwrap().uri
        };

        assert_eq!(told(&samples::evaluation()), "s3://data/trainings.txt");
        let own = samples::evaluation_with("/vocabulary", json!({"uri": "s3://data/own.txt"}));
        assert_eq!(told(&own), "s3://data/own.txt");
    }

    #[test]
    fn an_evaluation_takes_one_of_its_trainings_workers_or_all_that_it_asks_for() {
        let mut training = samples::training();
        (
            training.spec.workers.replicas,
            training.spec.workers.devices,
        ) = (3, 2);

        let observed = Observed {
            training: Some(training),
            ..Observed::default()
        };

        let sizes = |run: &CnClipEvaluation| {
            let work = run.work(&observed, &samples::defaults()).unwrap();
            let told = &config(&work).world;
            assert_eq!(
                (told.replicas, told.devices),
                (work.workers.replicas, work.workers.devices)
            );

            (told.replicas, told.devices)
        };

        assert_eq!(sizes(&samples::evaluation()), (1, 2));
        let workers = json!({"replicas": 4, "devices": 3, "accelerator": "Nvidia"});
        assert_eq!(
            sizes(&samples::evaluation_with("/workers", workers)),
            (4, 3)
        );
    }

    #[test]
    fn what_is_scored_stays_once_it_is_on_record() {
        let mut run = samples::evaluation();
        run.status =
            Some(serde_json::from_value(json!({"checkpoint": "s3://old", "attempt": 1})).unwrap());
        let work = run
            .work(&observed(json!({})), &samples::defaults())
            .unwrap();

        assert_eq!(work.waits_for, None);
        assert_eq!(config(&work).checkpoint, "s3://old");
    }

    #[test]
    fn a_classification_is_told_whole() {
        let asked = json!({"dataset": "s3://data/pets/", "preset": "oxford-iiit-pets",
                           "templateSet": "Pet", "templates": "s3://data/pets.txt", "metric": "top5"});
        let tasks = json!([{"name": "pets", "zeroShot": asked}]);
        let run = samples::evaluation_with("/tasks", tasks);
        let work = run
            .work(&observed(json!({})), &samples::defaults())
            .unwrap();
        let told = serde_json::to_value(&config(&work).tasks[0].zero_shot).unwrap();
        assert_eq!(told, asked);
    }
}
