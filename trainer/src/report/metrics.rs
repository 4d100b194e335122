//! A report as Prometheus metrics, each declared once in the table below. Holds no state: the
//! report is the state.

use cnclip_crds::{
    names,
    report::{Metric, Recall, Recalls, Report},
};
use prometheus::{Counter, Gauge, GaugeVec, Opts, Registry, TextEncoder, core::Collector};

use super::process;

enum Kind {
    Gauge,
    Counter,
}

/// Name, help, kind, and the value; a metric without a value is not told.
type Line = (&'static str, &'static str, Kind, fn(&Report) -> Option<f64>);

#[rustfmt::skip]
const METRICS: &[Line] = &[
    ("cnclip_train_step", "Optimizer steps completed in this stage over all restarts.", Kind::Gauge, |r| training(r, r.step)),
    ("cnclip_train_steps", "Optimizer steps of this stage.", Kind::Gauge, |r| training(r, r.steps)),
    ("cnclip_train_epochs", "Passes over the data completed in this stage.", Kind::Gauge, |r| training(r, 0).map(|_| r.epoch)),
    ("cnclip_train_loss", "Mean loss since the last report, in nats.", Kind::Gauge, |r| r.loss),
    ("cnclip_train_distillation_loss", "Mean distance from the teacher's features since the last report: 1 - cosine.", Kind::Gauge, |r| r.distillation_loss),
    ("cnclip_train_learning_rate", "Learning rate of the last step.", Kind::Gauge, |r| r.learning_rate),
    ("cnclip_train_logit_scale", "Natural logarithm of the factor on the similarities.", Kind::Gauge, |r| r.logit_scale),
    ("cnclip_train_gradient_norm", "Norm of the gradient of the last step.", Kind::Gauge, |r| r.gradient_norm),
    ("cnclip_train_samples_total", "Pairs trained on over all restarts.", Kind::Counter, |r| training(r, r.samples_seen)),
    ("cnclip_train_samples_per_second", "Pairs a second since the last report.", Kind::Gauge, |r| r.samples_per_second),
    ("cnclip_train_seconds_total", "Seconds spent in steps in this attempt.", Kind::Counter, |r| training(r, 0).map(|_| r.train_seconds)),
    ("cnclip_train_wait_seconds_total", "Seconds of this attempt that this worker waited for others.", Kind::Counter, |r| training(r, 0).map(|_| r.wait_seconds)),
    ("cnclip_train_remaining_seconds", "Seconds until the last step at the present rate.", Kind::Gauge, |r| number(r.eta_seconds?)),
    ("cnclip_skipped_samples_total", "Samples skipped because they could not be used.", Kind::Counter, |r| number(r.samples_skipped)),
    ("cnclip_skipped_steps_total", "Steps skipped because their numbers were not finite.", Kind::Counter, |r| training(r, r.steps_skipped)),
    ("cnclip_checkpoint_step", "Step of the newest checkpoint that is whole in the store.", Kind::Gauge, |r| number(r.checkpoints.first()?.step)),
    ("cnclip_checkpoint_written_timestamp_seconds", "When the newest checkpoint became visible.", Kind::Gauge, |r| number(r.checkpoints.first()?.written_at)),
    ("cnclip_validation_step", "Step after which recall was last measured.", Kind::Gauge, |r| number(r.validation?.step)),
    ("cnclip_validation_best_step", "Step of the best validation.", Kind::Gauge, |r| number(r.best?.step)),
    ("cnclip_evaluation_tasks_done", "Tasks of this evaluation that are scored.", Kind::Gauge, |r| evaluating(r, r.step)),
    ("cnclip_evaluation_tasks", "Tasks of this evaluation.", Kind::Gauge, |r| evaluating(r, r.steps)),
    ("cnclip_report_timestamp_seconds", "When the trainer last said something.", Kind::Gauge, |r| number(r.reported_at)),
    ("cnclip_peak_resident_bytes", "The most memory the trainer has held.", Kind::Gauge, |r| number(r.peak_rss_bytes)),
    ("process_resident_memory_bytes", "Resident memory size in bytes.", Kind::Gauge, |_| number(process::resident_bytes()?)),
];

const RECALL: (&str, &str) = (
    "cnclip_validation_recall_ratio",
    "Share of queries with a relevant candidate among the first k, at the last validation.",
);
const MEAN_RECALL: (&str, &str) = (
    "cnclip_validation_mean_recall_ratio",
    "Mean of the shares among the first 1, 5 and 10, at the last validation.",
);
const SCORE: (&str, &str) = (
    names::METRIC_SCORE,
    "What an evaluation measured, in percent, by task and number.",
);

fn number(value: i64) -> Option<f64> {
    Some(value as f64)
}

fn training(report: &Report, value: i64) -> Option<f64> {
    number(value).filter(|_| !is_evaluation(report))
}

fn evaluating(report: &Report, value: i64) -> Option<f64> {
    number(value).filter(|_| is_evaluation(report))
}

fn is_evaluation(report: &Report) -> bool {
    report.run.stage == names::STAGE_EVALUATE || report.evaluation.is_some()
}

/// The report in Prometheus' text format, labelled with run and stage.
///
/// # Errors
/// What the library says of a name or a label it refuses.
pub fn text(report: &Report) -> prometheus::Result<String> {
    let registry = Registry::new();
    for (name, help, kind, value) in METRICS {
        let Some(value) = value(report) else { continue };
        let opts = opts(report, name, help);
        match kind {
            Kind::Gauge => {
                let gauge = Gauge::with_opts(opts)?;
                gauge.set(value);
                register(&registry, gauge)?;
            }
            Kind::Counter => {
                let counter = Counter::with_opts(opts)?;
                counter.inc_by(value.max(0.0));
                register(&registry, counter)?;
            }
        }
    }

    if let Some(validation) = report.validation {
        recalls(&registry, report, &validation.recalls)?;
    }

    scores(&registry, report)?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn recalls(registry: &Registry, report: &Report, recalls: &Recalls) -> prometheus::Result<()> {
    let by_k = GaugeVec::new(opts(report, RECALL.0, RECALL.1), &["direction", "k"])?;
    let mean = GaugeVec::new(opts(report, MEAN_RECALL.0, MEAN_RECALL.1), &["direction"])?;
    let Recalls {
        text_to_image,
        image_to_text,
    } = recalls;

    for (direction, recall) in [
        ("text_to_image", text_to_image),
        ("image_to_text", image_to_text),
    ] {
        let Recall {
            r1,
            r5,
            r10,
            mean_recall,
        } = recall;
        for (k, percent) in [("1", r1), ("5", r5), ("10", r10)] {
            by_k.with_label_values(&[direction, k]).set(percent / 100.0);
        }
        mean.with_label_values(&[direction])
            .set(mean_recall / 100.0);
    }

    register(registry, by_k)?;
    register(registry, mean)
}

fn scores(registry: &Registry, report: &Report) -> prometheus::Result<()> {
    if report.results.is_empty() {
        return Ok(());
    }

    let by_task = GaugeVec::new(opts(report, SCORE.0, SCORE.1), &["task", "metric"])?;
    for result in &report.results {
        for metric in Metric::ALL {
            let Some(score) = result.score(metric) else {
                continue;
            };

            by_task
                .with_label_values(&[&result.name, metric.name()])
                .set(score);
        }
    }

    register(registry, by_task)
}

fn register(registry: &Registry, metric: impl Collector + 'static) -> prometheus::Result<()> {
    registry.register(Box::new(metric))
}

fn opts(report: &Report, name: &str, help: &str) -> Opts {
    Opts::new(name, help)
        .const_label("run", &report.run.name)
        .const_label("stage", &report.run.stage)
}

#[cfg(test)]
mod tests {
    use cnclip_crds::{
        report::{EvaluationReport, Measured, RetrievalScores, TaskResult, Validation},
        run_config::Identity,
    };

    use super::*;

    fn report(stage: &str) -> Report {
        let name = "muge \"b16\"\n".into();
        let run = Identity {
            name,
            stage: stage.into(),
            ..Identity::default()
        };

        Report {
            run,
            step: 7,
            steps: 9,
            samples_seen: 1792,
            ..Report::default()
        }
    }

    #[test]
    fn a_training_tells_its_numbers_with_run_and_stage() {
        let recall = Recall {
            r1: 58.4,
            r5: 83.6,
            r10: 90.0,
            mean_recall: 77.4,
        };

        let recalls = Recalls {
            text_to_image: recall,
            image_to_text: Recall::default(),
        };

        let validation = Some(Validation { step: 5, recalls });
        let report = Report {
            loss: Some(0.412),
            validation,
            ..report("align")
        };

        let text = text(&report).unwrap();
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
    fn what_is_not_known_is_not_told_as_zero() {
        let text = text(&report("align")).unwrap();
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
    fn an_evaluation_tells_what_it_measured_whatever_its_stage_is_called() {
        let recall = Recall {
            r1: 58.4,
            r5: 83.6,
            r10: 90.0,
            mean_recall: 77.4,
        };

        let recalls = Some(Recalls {
            text_to_image: recall,
            image_to_text: recall,
        });

        let result = TaskResult {
            name: "muge".into(),
            dataset: "s3://data/muge/valid/".into(),
            digest: String::new(),
            images: 5,
            seconds: 1.0,
            measured: Measured::Retrieval(RetrievalScores {
                texts: 5,
                recalls,
                threshold: None,
            }),
        };

        let evaluation = Some(EvaluationReport::default());
        let results = vec![result];
        let text = text(&Report {
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
        let text = text(&report(names::STAGE_EVALUATE)).unwrap();
        assert!(text.contains("cnclip_evaluation_tasks_done"), "{text}");
        assert!(!text.contains("cnclip_train"), "{text}");
    }
}
