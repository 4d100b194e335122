//! Log lines of a run: one for each change between two reports. Never decides where they go.

use cnclip_crds::report::ProgressReport;

use crate::evaluate::present_scores;
use crate::evaluate::retrieval::log_validation;

/// Logs what is new; steps are left to the progress bar where there is one.
pub(super) fn log_report_changes(before: &ProgressReport, now: &ProgressReport, has_bar: bool) {
    if now.step != before.step && !has_bar {
        log_step(now);
    }

    if now.validation != before.validation
        && let Some(validation) = now.validation
    {
        log_validation(validation.step, &validation.recalls);
    }

    log_checkpoint(before, now);

    for result in now.results.iter().skip(before.results.len()) {
        let scores = present_scores(&result.measured);
        scores.log_scores(&result.name, result.images);
    }

    log_activity(before, now);
}

fn log_checkpoint(before: &ProgressReport, now: &ProgressReport) {
    let newest = now.checkpoints.first();
    if newest == before.checkpoints.first() {
        return;
    }

    if let Some(saved) = newest {
        tracing::info!(step = saved.step, uri = saved.uri, "checkpoint saved");
    }
}

fn log_activity(before: &ProgressReport, now: &ProgressReport) {
    match &now.failure {
        Some(failure) if before.failure.is_none() => {
            let exit_code = failure.exit_code;
            tracing::error!(exit_code, "{}", failure.message);
        }
        _ if now.activity != before.activity => {
            let stage = &now.run.stage;
            tracing::info!(stage, step = now.step, "{:?}", now.activity);
        }
        _ => {}
    }
}

fn log_step(now: &ProgressReport) {
    tracing::info!(
        stage = now.run.stage,
        step = now.step,
        steps = now.steps,
        epoch = now.epoch,
        loss = now.loss,
        distillation_loss = now.distillation_loss,
        learning_rate = now.learning_rate,
        logit_scale = now.logit_scale,
        gradient_norm = now.gradient_norm,
        samples_per_second = now.samples_per_second,
        eta_seconds = now.eta_seconds,
        samples_skipped = now.samples_skipped,
        steps_skipped = now.steps_skipped,
        "step finished"
    );
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use cnclip_crds::report::{CheckpointReport, FailureReport, TrainerActivity, ValidationReport};
    use cnclip_crds::tasks::{
        Metric, RecallAtK, RetrievalRecalls, RetrievalScores, SimilarityThreshold, TaskResult,
        TaskScores, TemplatesReport, ZeroShotScores,
    };
    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines between two reports, as a pod's log has them.
    fn lines(before: &ProgressReport, now: &ProgressReport, has_bar: bool) -> Vec<Value> {
        let page = Page::default();
        let writer = page.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true);
        let log = log.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || log_report_changes(before, now, has_bar));
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();

        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn each_change_is_logged_once() {
        let before = ProgressReport {
            step: 10,
            ..ProgressReport::default()
        };

        let checkpoint = |step| {
            let (uri, digest) = ("s3://runs/1".into(), "d".into());
            vec![CheckpointReport {
                step,
                uri,
                digest,
                written_at: 0,
            }]
        };

        let validation = Some(ValidationReport {
            step: 10,
            recalls: RetrievalRecalls::default(),
        });

        let failure = Some(FailureReport {
            exit_code: 65,
            message: "no data".into(),
        });

        let at_10 = || before.clone();
        for (now, expected) in [
            (at_10(), vec![]),
            (
                ProgressReport {
                    step: 20,
                    loss: Some(2.5),
                    ..at_10()
                },
                vec!["step finished"],
            ),
            (
                ProgressReport {
                    validation,
                    ..at_10()
                },
                vec!["validated"],
            ),
            (
                ProgressReport {
                    checkpoints: checkpoint(10),
                    ..at_10()
                },
                vec!["checkpoint saved"],
            ),
            (
                ProgressReport {
                    activity: TrainerActivity::Training,
                    ..at_10()
                },
                vec!["Training"],
            ),
            (
                ProgressReport {
                    failure,
                    activity: TrainerActivity::Failed,
                    ..at_10()
                },
                vec!["no data"],
            ),
        ] {
            let logged = lines(&before, &now, false);
            let messages: Vec<_> = logged
                .iter()
                .map(|line| line["message"].as_str().unwrap())
                .collect();
            assert_eq!(messages, expected);
            assert!(lines(&now, &now, false).is_empty());
        }
    }

    /// The lines of one more result, without their time and level.
    fn result_lines(measured: TaskScores) -> Vec<Value> {
        let result = TaskResult {
            name: "muge".into(),
            dataset: "s3://data/muge/valid/".into(),
            digest: String::new(),
            images: 3,
            seconds: 1.0,
            measured,
        };

        let now = ProgressReport {
            results: vec![result],
            ..ProgressReport::default()
        };

        let mut logged = lines(&ProgressReport::default(), &now, false);
        for line in &mut logged {
            let line = line.as_object_mut().unwrap();
            line.retain(|field, _| !["timestamp", "level", "target"].contains(&field.as_str()));
        }

        logged
    }

    #[test]
    fn scores_are_logged_with_the_fields_of_their_task() {
        let recall = RecallAtK {
            r1: 58.42,
            r5: 83.6,
            r10: 100.0,
            mean_recall: 77.4,
        };

        let recalls = RetrievalRecalls {
            text_to_image: recall,
            image_to_text: RecallAtK::default(),
        };

        let threshold = SimilarityThreshold {
            wanted: 95.0,
            similarity: 0.31,
            precision: 90.5,
            coverage: 60.0,
        };

        let mut retrieval = RetrievalScores {
            texts: 5,
            recalls: Some(recalls),
            threshold: Some(threshold),
        };

        let scored = json!({"image_to_text": "R@1 0.0 R@5 0.0 R@10 0.0 MR 0.0", "message": "scored", "task": "muge", "text_to_image": "R@1 58.4 R@5 83.6 R@10 100.0 MR 77.4"});
        let calibrated = json!({"coverage": 60.0, "message": "calibrated", "precision": 90.5, "reached": false, "similarity": 0.31, "task": "muge", "wanted": 95.0});
        let logged = result_lines(TaskScores::Retrieval(retrieval.clone()));
        assert_eq!(logged, [scored, calibrated]);

        retrieval.recalls = None;
        let searched =
            json!({"images": 3, "message": "searched without labels", "task": "muge", "texts": 5});
        let logged = result_lines(TaskScores::Retrieval(retrieval));
        assert_eq!(logged, [searched]);

        let classified = json!({"accuracy": 50.0, "headline": 75.0, "message": "scored", "metric": "Top5", "task": "muge"});
        let logged = result_lines(TaskScores::ZeroShot(ZeroShotScores {
            classes: 2,
            headline: Metric::Top5,
            accuracy: 50.0,
            top5: 75.0,
            mean_per_class: 49.0,
            roc_auc: None,
            mean_average_precision: 51.0,
            templates: TemplatesReport::default(),
        }));

        assert_eq!(logged, [classified]);
    }

    #[test]
    fn a_bar_shows_the_steps_in_place_of_lines() {
        let before = ProgressReport::default();
        let now = ProgressReport {
            step: 1,
            ..ProgressReport::default()
        };

        assert!(lines(&before, &now, true).is_empty());
    }

    #[test]
    fn numbers_are_numbers_and_the_unknown_is_absent() {
        let now = ProgressReport {
            step: 20,
            loss: Some(2.5),
            ..ProgressReport::default()
        };

        let line = &lines(&ProgressReport::default(), &now, false)[0];
        assert_eq!(
            (&line["step"], &line["loss"]),
            (&Value::from(20), &Value::from(2.5))
        );

        assert_eq!(line.get("learning_rate"), None);
    }
}
