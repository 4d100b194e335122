//! A report as Prometheus metrics, each declared once in the table below. Holds no state: the
//! report is the state, and a registry is built anew for each scrape.

use cnclip_crds::{
    names,
    report::ProgressReport,
    tasks::{Metric, RecallAtK, RetrievalRecalls},
};
use prometheus::{Counter, Gauge, GaugeVec, Opts, Registry, TextEncoder, core::Collector};

use super::process_memory;

#[derive(Clone, Copy)]
enum MetricKind {
    Gauge,
    Counter,
}

/// Name and help of an exported metric.
#[derive(Clone, Copy)]
struct MetricDescription {
    name: &'static str,
    help: &'static str,
}

/// A metric with one value. Without one it is not exported: absent is not zero, and alerts on a loss of 0 would
/// fire before the first step.
struct MetricRow {
    description: MetricDescription,
    kind: MetricKind,
    value: fn(&ProgressReport) -> Option<f64>,
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&ProgressReport) -> Option<f64>,
) -> MetricRow {
    MetricRow {
        description: MetricDescription { name, help },
        kind: MetricKind::Gauge,
        value,
    }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&ProgressReport) -> Option<f64>,
) -> MetricRow {
    MetricRow {
        kind: MetricKind::Counter,
        ..gauge(name, help, value)
    }
}

// One row a line, as a table is read.
#[rustfmt::skip]
const METRICS: &[MetricRow] = &[
    gauge("cnclip_train_step", "Optimizer steps completed in this stage over all restarts.", |r| training_value(r, r.step)),
    gauge("cnclip_train_steps", "Optimizer steps of this stage.", |r| training_value(r, r.steps)),
    gauge("cnclip_train_epochs", "Passes over the data completed in this stage.", |r| training_value(r, 0).map(|_| r.epoch)),
    gauge("cnclip_train_loss", "Mean loss since the last report, in nats.", |r| r.loss),
    gauge("cnclip_train_distillation_loss", "Mean distance from the teacher's features since the last report: 1 - cosine.", |r| r.distillation_loss),
    gauge("cnclip_train_learning_rate", "Learning rate of the last step.", |r| r.learning_rate),
    gauge("cnclip_train_logit_scale", "Natural logarithm of the factor on the similarities.", |r| r.logit_scale),
    gauge("cnclip_train_gradient_norm", "Norm of the gradient of the last step.", |r| r.gradient_norm),
    counter("cnclip_train_samples_total", "Pairs trained on over all restarts.", |r| training_value(r, r.samples_seen)),
    gauge("cnclip_train_samples_per_second", "Pairs a second since the last report.", |r| r.samples_per_second),
    counter("cnclip_train_seconds_total", "Seconds spent in steps in this attempt.", |r| training_value(r, 0).map(|_| r.train_seconds)),
    counter("cnclip_train_wait_seconds_total", "Seconds of this attempt that this worker waited for others.", |r| training_value(r, 0).map(|_| r.wait_seconds)),
    gauge("cnclip_train_remaining_seconds", "Seconds until the last step at the present rate.", |r| metric_value(r.eta_seconds?)),
    counter("cnclip_skipped_samples_total", "Samples skipped because they could not be used.", |r| metric_value(r.samples_skipped)),
    counter("cnclip_skipped_steps_total", "Steps skipped because their numbers were not finite.", |r| training_value(r, r.steps_skipped)),
    gauge("cnclip_checkpoint_step", "Step of the newest checkpoint that is whole in the store.", |r| metric_value(r.checkpoints.first()?.step)),
    gauge("cnclip_checkpoint_written_timestamp_seconds", "When the newest checkpoint became visible.", |r| metric_value(r.checkpoints.first()?.written_at)),
    counter("cnclip_checkpoint_failures_total", "Checkpoints of this attempt that could not be written.", |r| training_value(r, r.checkpoints_failed)),
    gauge("cnclip_validation_step", "Step after which recall was last measured.", |r| metric_value(r.validation?.step)),
    gauge("cnclip_validation_best_step", "Step of the best validation.", |r| metric_value(r.best?.step)),
    gauge("cnclip_evaluation_tasks_done", "Tasks of this evaluation that are scored.", |r| evaluation_value(r, r.step)),
    gauge("cnclip_evaluation_tasks", "Tasks of this evaluation.", |r| evaluation_value(r, r.steps)),
    gauge("cnclip_report_timestamp_seconds", "When the trainer last said something.", |r| metric_value(r.reported_at)),
    gauge("cnclip_peak_resident_bytes", "The most memory the trainer has held.", |r| metric_value(r.peak_rss_bytes)),
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", |_| metric_value(process_memory::resident_bytes()?)),
];

const RECALL_RATIO: MetricDescription = MetricDescription {
    name: "cnclip_validation_recall_ratio",
    help: "Share of queries with a relevant candidate among the first k, at the last validation.",
};
const MEAN_RECALL_RATIO: MetricDescription = MetricDescription {
    name: "cnclip_validation_mean_recall_ratio",
    help: "Mean of the shares among the first 1, 5 and 10, at the last validation.",
};
const EVALUATION_SCORE: MetricDescription = MetricDescription {
    name: names::METRIC_SCORE,
    help: "What an evaluation measured, in percent, by task and number.",
};

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
    for row in METRICS {
        let Some(value) = (row.value)(report) else {
            continue;
        };

        let opts = metric_opts(report, row.description);
        match row.kind {
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
    let by_k = GaugeVec::new(metric_opts(report, RECALL_RATIO), &["direction", "k"])?;
    let mean = GaugeVec::new(metric_opts(report, MEAN_RECALL_RATIO), &["direction"])?;
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

    let by_task = GaugeVec::new(metric_opts(report, EVALUATION_SCORE), &["task", "metric"])?;
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

fn metric_opts(report: &ProgressReport, description: MetricDescription) -> Opts {
    Opts::new(description.name, description.help)
        .const_label("run", &report.run.name)
        .const_label("stage", &report.run.stage)
}

#[cfg(test)]
mod tests;
