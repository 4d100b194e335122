//! Log lines of a run: one for each change between two reports. Never decides where they go.

use cnclip_crds::report::ProgressReport;
use cnclip_crds::tasks::{
    RecallAtK, RetrievalRecalls, SimilarityThreshold, TaskResult, TaskScores,
};

/// Logs what is new; steps are left to the progress bar where there is one.
pub(super) fn log_report_changes(before: &ProgressReport, now: &ProgressReport, has_bar: bool) {
    if now.step != before.step && !has_bar {
        log_step(now);
    }

    if let Some(found) = now
        .validation
        .filter(|found| Some(*found) != before.validation)
    {
        let (text_to_image, image_to_text) = format_recalls(&found.recalls);
        tracing::info!(step = found.step, text_to_image, image_to_text, "validated");
    }

    if let Some(saved) = now.checkpoints.first()
        && before.checkpoints.first() != Some(saved)
    {
        tracing::info!(step = saved.step, uri = saved.uri, "checkpoint saved");
    }

    for result in now.results.iter().skip(before.results.len()) {
        log_task_result(result);
    }

    match &now.failure {
        Some(failure) if before.failure.is_none() => {
            tracing::error!(exit_code = failure.exit_code, "{}", failure.message);
        }
        _ if now.activity != before.activity => {
            tracing::info!(stage = now.run.stage, step = now.step, "{:?}", now.activity);
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

fn log_task_result(result: &TaskResult) {
    match &result.measured {
        TaskScores::Retrieval(scores) => {
            let Some((text_to_image, image_to_text)) = scores.recalls.as_ref().map(format_recalls)
            else {
                let texts = scores.texts;
                let images = result.images;
                return tracing::info!(
                    task = result.name,
                    texts,
                    images,
                    "searched without labels"
                );
            };

            tracing::info!(task = result.name, text_to_image, image_to_text, "scored");
            if let Some(found) = &scores.threshold {
                let SimilarityThreshold {
                    wanted,
                    similarity,
                    precision,
                    coverage,
                } = found;

                let reached = found.is_reached();
                tracing::info!(
                    task = result.name,
                    wanted,
                    reached,
                    similarity,
                    precision,
                    coverage,
                    "calibrated"
                );
            }
        }
        TaskScores::ZeroShot(scores) => {
            let headline = result.find_score(scores.headline);
            let accuracy = scores.accuracy;
            let metric = scores.headline;
            tracing::info!(task = result.name, accuracy, ?metric, headline, "scored");
        }
    }
}

fn format_recalls(recalls: &RetrievalRecalls) -> (String, String) {
    (
        format_recall(&recalls.text_to_image),
        format_recall(&recalls.image_to_text),
    )
}

fn format_recall(recall: &RecallAtK) -> String {
    let RecallAtK {
        r1,
        r5,
        r10,
        mean_recall,
    } = recall;

    format!("R@1 {r1:.1} R@5 {r5:.1} R@10 {r10:.1} MR {mean_recall:.1}")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use cnclip_crds::report::{CheckpointReport, FailureReport, TrainerActivity, ValidationReport};
    use serde_json::Value;

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
