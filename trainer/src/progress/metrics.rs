//! A report as Prometheus metrics, each declared once in the table below. Holds no state: the
//! report is the state, and a registry is built anew for each scrape.

use cnclip_crds::{
    names,
    report::ProgressReport,
    tasks::{Metric, RecallAtK, RetrievalRecalls},
};
use prometheus::{Counter, Gauge, GaugeVec, Opts, Registry, TextEncoder, core::Collector};

use super::process_memory;

enum MetricKind {
    Gauge,
    Counter,
}

/// Name, help, kind, and the value. A metric without a value is not exported: absent is not zero, and alerts
/// on a loss of 0 would fire before the first step.
type MetricRow = (
    &'static str,
    &'static str,
    MetricKind,
    fn(&ProgressReport) -> Option<f64>,
);

#[rustfmt::skip]
const METRICS: &[MetricRow] = &[
    ("cnclip_train_step", "Optimizer steps completed in this stage over all restarts.", MetricKind::Gauge, |r| training_value(r, r.step)),
    ("cnclip_train_steps", "Optimizer steps of this stage.", MetricKind::Gauge, |r| training_value(r, r.steps)),
    ("cnclip_train_epochs", "Passes over the data completed in this stage.", MetricKind::Gauge, |r| training_value(r, 0).map(|_| r.epoch)),
    ("cnclip_train_loss", "Mean loss since the last report, in nats.", MetricKind::Gauge, |r| r.loss),
    ("cnclip_train_distillation_loss", "Mean distance from the teacher's features since the last report: 1 - cosine.", MetricKind::Gauge, |r| r.distillation_loss),
    ("cnclip_train_learning_rate", "Learning rate of the last step.", MetricKind::Gauge, |r| r.learning_rate),
    ("cnclip_train_logit_scale", "Natural logarithm of the factor on the similarities.", MetricKind::Gauge, |r| r.logit_scale),
    ("cnclip_train_gradient_norm", "Norm of the gradient of the last step.", MetricKind::Gauge, |r| r.gradient_norm),
    ("cnclip_train_samples_total", "Pairs trained on over all restarts.", MetricKind::Counter, |r| training_value(r, r.samples_seen)),
    ("cnclip_train_samples_per_second", "Pairs a second since the last report.", MetricKind::Gauge, |r| r.samples_per_second),
    ("cnclip_train_seconds_total", "Seconds spent in steps in this attempt.", MetricKind::Counter, |r| training_value(r, 0).map(|_| r.train_seconds)),
    ("cnclip_train_wait_seconds_total", "Seconds of this attempt that this worker waited for others.", MetricKind::Counter, |r| training_value(r, 0).map(|_| r.wait_seconds)),
    ("cnclip_train_remaining_seconds", "Seconds until the last step at the present rate.", MetricKind::Gauge, |r| metric_value(r.eta_seconds?)),
    ("cnclip_skipped_samples_total", "Samples skipped because they could not be used.", MetricKind::Counter, |r| metric_value(r.samples_skipped)),
    ("cnclip_skipped_steps_total", "Steps skipped because their numbers were not finite.", MetricKind::Counter, |r| training_value(r, r.steps_skipped)),
    ("cnclip_checkpoint_step", "Step of the newest checkpoint that is whole in the store.", MetricKind::Gauge, |r| metric_value(r.checkpoints.first()?.step)),
    ("cnclip_checkpoint_written_timestamp_seconds", "When the newest checkpoint became visible.", MetricKind::Gauge, |r| metric_value(r.checkpoints.first()?.written_at)),
    ("cnclip_validation_step", "Step after which recall was last measured.", MetricKind::Gauge, |r| metric_value(r.validation?.step)),
    ("cnclip_validation_best_step", "Step of the best validation.", MetricKind::Gauge, |r| metric_value(r.best?.step)),
    ("cnclip_evaluation_tasks_done", "Tasks of this evaluation that are scored.", MetricKind::Gauge, |r| evaluation_value(r, r.step)),
    ("cnclip_evaluation_tasks", "Tasks of this evaluation.", MetricKind::Gauge, |r| evaluation_value(r, r.steps)),
    ("cnclip_report_timestamp_seconds", "When the trainer last said something.", MetricKind::Gauge, |r| metric_value(r.reported_at)),
    ("cnclip_peak_resident_bytes", "The most memory the trainer has held.", MetricKind::Gauge, |r| metric_value(r.peak_rss_bytes)),
    ("process_resident_memory_bytes", "Resident memory size in bytes.", MetricKind::Gauge, |_| metric_value(process_memory::resident_bytes()?)),
];

const RECALL_RATIO: (&str, &str) = (
    "cnclip_validation_recall_ratio",
    "Share of queries with a relevant candidate among the first k, at the last validation.",
);
const MEAN_RECALL_RATIO: (&str, &str) = (
    "cnclip_validation_mean_recall_ratio",
    "Mean of the shares among the first 1, 5 and 10, at the last validation.",
);
const EVALUATION_SCORE: (&str, &str) = (
    names::METRIC_SCORE,
    "What an evaluation measured, in percent, by task and number.",
);

fn metric_value(value: i64) -> Option<f64> {
    Some(value as f64)
}

fn training_value(report: &ProgressReport, value: i64) -> Option<f64> {
    metric_value(value).filter(|_| !is_evaluation(report))
}

fn evaluation_value(report: &ProgressReport, value: i64) -> Option<f64> {
    metric_value(value).filter(|_| is_evaluation(report))
}

fn is_evaluation(report: &ProgressReport) -> bool {
    report.run.stage == names::STAGE_EVALUATE || report.evaluation.is_some()
}

/// The report in Prometheus' text format, labelled with run and stage.
///
/// # Errors
/// What the library says of a name or a label it refuses.
pub fn encode_metrics(report: &ProgressReport) -> prometheus::Result<String> {
    let registry = Registry::new();
    for (name, help, kind, value) in METRICS {
        let Some(value) = value(report) else { continue };
        let opts = metric_opts(report, name, help);
        match kind {
            MetricKind::Gauge => {
                let gauge = Gauge::with_opts(opts)?;
                gauge.set(value);
                register_metric(&registry, gauge)?;
            }
            MetricKind::Counter => {
                // A fresh counter starts at 0, and takes no negative amounts.
                let counter = Counter::with_opts(opts)?;
                counter.inc_by(value.max(0.0));
                register_metric(&registry, counter)?;
            }
        }
    }

    if let Some(validation) = report.validation {
        register_recalls(&registry, report, &validation.recalls)?;
    }

    register_scores(&registry, report)?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn register_recalls(
    registry: &Registry,
    report: &ProgressReport,
    recalls: &RetrievalRecalls,
) -> prometheus::Result<()> {
    let by_k = GaugeVec::new(
        metric_opts(report, RECALL_RATIO.0, RECALL_RATIO.1),
        &["direction", "k"],
    )?;
    let mean = GaugeVec::new(
        metric_opts(report, MEAN_RECALL_RATIO.0, MEAN_RECALL_RATIO.1),
        &["direction"],
    )?;
    let RetrievalRecalls {
        text_to_image,
        image_to_text,
    } = recalls;

    for (direction, recall) in [
        ("text_to_image", text_to_image),
        ("image_to_text", image_to_text),
    ] {
        let RecallAtK {
            r1,
            r5,
            r10,
            mean_recall,
        } = recall;
        // Reports hold percent; Prometheus' convention is ratios.
        for (k, percent) in [("1", r1), ("5", r5), ("10", r10)] {
            by_k.with_label_values(&[direction, k]).set(percent / 100.0);
        }
        mean.with_label_values(&[direction])
            .set(mean_recall / 100.0);
    }

    register_metric(registry, by_k)?;
    register_metric(registry, mean)
}

fn register_scores(registry: &Registry, report: &ProgressReport) -> prometheus::Result<()> {
    if report.results.is_empty() {
        return Ok(());
    }

    let by_task = GaugeVec::new(
        metric_opts(report, EVALUATION_SCORE.0, EVALUATION_SCORE.1),
        &["task", "metric"],
    )?;
    for result in &report.results {
        for &metric in Metric::ALL {
            let Some(score) = result.find_score(metric) else {
                continue;
            };

            by_task
                .with_label_values(&[&result.name, metric.name()])
                .set(score);
        }
    }

    register_metric(registry, by_task)
}

fn register_metric(
    registry: &Registry,
    metric: impl Collector + 'static,
) -> prometheus::Result<()> {
    registry.register(Box::new(metric))
}

fn metric_opts(report: &ProgressReport, name: &str, help: &str) -> Opts {
    Opts::new(name, help)
        .const_label("run", &report.run.name)
        .const_label("stage", &report.run.stage)
}

#[cfg(test)]
mod tests {
    use cnclip_crds::{
        report::{EvaluationReport, ValidationReport},
        tasks::{RetrievalScores, TaskResult, TaskScores},
        trainer_config::RunIdentity,
    };

    use super::*;

    fn report(stage: &str) -> ProgressReport {
        let name = "muge \"b16\"\n".into();
        let run = RunIdentity {
            name,
            stage: stage.into(),
            ..RunIdentity::default()
        };

        ProgressReport {
            run,
            step: 7,
            steps: 9,
            samples_seen: 1792,
            ..ProgressReport::default()
        }
    }

    #[test]
    fn a_training_exports_its_numbers_with_run_and_stage() {
        let recall = RecallAtK {
            r1: 58.4,
            r5: 83.6,
            r10: 90.0,
            mean_recall: 77.4,
        };

        let recalls = RetrievalRecalls {
            text_to_image: recall,
            image_to_text: RecallAtK::default(),
        };

        let validation = Some(ValidationReport { step: 5, recalls });
        let report = ProgressReport {
            loss: Some(0.412),
            validation,
            ..report("align")
        };

        let text = encode_metrics(&report).unwrap();
        for line in [
            "# TYPE cnclip_train_samples_total counter",
            r#"cnclip_train_samples_total{run="muge \"b16\"\n",stage="align"} 1792"#,
            r#"cnclip_train_loss{run="muge \"b16\"\n",stage="align"} 0.412"#,
            r#"cnclip_validation_recall_ratio{direction="text_to_image",k="10",run="muge \"b16\"\n",stage="align"} 0.9"#,
            r#"cnclip_validation_mean_recall_ratio{direction="image_to_text",run="muge \"b16\"\n",stage="align"} 0"#,
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }

        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_not_exported_as_zero() {
        let text = encode_metrics(&report("align")).unwrap();
        for name in [
            "loss",
            "checkpoint",
            "validation",
            "evaluation",
            "remaining",
        ] {
            assert!(!text.contains(name), "{name} is in\n{text}");
        }
    }

    #[test]
    fn an_evaluation_exports_its_scores_whatever_its_stage_is_called() {
        let recall = RecallAtK {
            r1: 58.4,
            r5: 83.6,
            r10: 90.0,
            mean_recall: 77.4,
        };

        let recalls = Some(RetrievalRecalls {
            text_to_image: recall,
            image_to_text: recall,
        });

        let result = TaskResult {
            name: "muge".into(),
            dataset: "s3://data/muge/valid/".into(),
            digest: String::new(),
            images: 5,
            seconds: 1.0,
            measured: TaskScores::Retrieval(RetrievalScores {
                texts: 5,
                recalls,
                threshold: None,
            }),
        };

        let evaluation = Some(EvaluationReport::default());
        let results = vec![result];
        let text = encode_metrics(&ProgressReport {
            evaluation,
            results,
            ..report("align-3800")
        })
        .unwrap();

        let line = r#"cnclip_evaluation_score{metric="textToImage.meanRecall",run="muge \"b16\"\n",stage="align-3800",task="muge"} 77.4"#;
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );

        assert_eq!(
            text.matches("cnclip_evaluation_score{").count(),
            8,
            "{text}"
        );

        assert!(!text.contains("cnclip_train"), "{text}");
    }

    #[test]
    fn an_evaluation_counts_tasks_and_not_steps() {
        let text = encode_metrics(&report(names::STAGE_EVALUATE)).unwrap();
        assert!(text.contains("cnclip_evaluation_tasks_done"), "{text}");
        assert!(!text.contains("cnclip_train"), "{text}");
    }
}
