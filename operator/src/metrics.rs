//! Metrics of the operator. No label has unbounded values, except those of the scores of evaluations, whose
//! number of series is limited.

mod scores;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

pub use scores::ScoreGauges;

/// Metrics of the operator; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Reconciliations by kind and outcome (`ok` or the kind of error).
    pub reconciles: IntCounterVec,
    /// Duration of reconciliations.
    pub reconcile_seconds: HistogramVec,
    /// Failed attempts by kind and failure class.
    pub attempt_failures: IntCounterVec,
    /// Finished runs by kind and outcome.
    pub ended_runs: IntCounterVec,
    /// Writes of objects and statuses.
    pub writes: IntCounterVec,
    /// Requests of progress reports by outcome.
    pub progress_reads: IntCounterVec,
    /// Delay of requests of progress reports.
    pub poll_lag_seconds: Histogram,
    /// Pods whose progress is polled.
    pub polled_pods: IntGauge,
    /// Whether this replica is the leader.
    pub leader: IntGauge,
    /// Scores of evaluations.
    pub scores: ScoreGauges,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// If two have the same name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };

        let reconcile_seconds = HistogramVec::new(
            HistogramOpts::new(
                "cnclip_operator_reconcile_seconds",
                "Duration of reconciliations in seconds.",
            )
            .buckets(vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
            &["kind"],
        )?;

        registry.register(Box::new(reconcile_seconds.clone()))?;
        let poll_lag_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "cnclip_operator_progress_lag_seconds",
                "Delay of requests of progress reports behind their due time, in seconds.",
            )
            .buckets(vec![0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0]),
        )?;

        registry.register(Box::new(poll_lag_seconds.clone()))?;
        let polled_pods = IntGauge::new(
            "cnclip_operator_polled_pods",
            "Number of pods whose progress is polled.",
        )?;

        registry.register(Box::new(polled_pods.clone()))?;
        let leader = IntGauge::new("cnclip_operator_leader", "1 if this replica is the leader.")?;
        registry.register(Box::new(leader.clone()))?;
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;

        Ok(Self {
            reconciles: counter(
                "cnclip_operator_reconciles_total",
                "Reconciliations by kind and outcome.",
                &["kind", "outcome"],
            )?,
            attempt_failures: counter(
                "cnclip_operator_attempt_failures_total",
                "Failed attempts by kind and failure class.",
                &["kind", "class"],
            )?,
            ended_runs: counter(
                "cnclip_operator_ended_runs_total",
                "Finished runs by kind and outcome.",
                &["kind", "end"],
            )?,
            writes: counter(
                "cnclip_operator_writes_total",
                "Writes to the API server by type of object.",
                &["what"],
            )?,
            progress_reads: counter(
                "cnclip_operator_progress_reads_total",
                "Requests of progress reports by outcome.",
                &["outcome"],
            )?,
            scores: ScoreGauges::register_gauges(&registry)?,
            reconcile_seconds,
            poll_lag_seconds,
            polled_pods,
            leader,
            registry,
        })
    }

    /// All metrics in the Prometheus text format.
    ///
    /// # Errors
    /// If they cannot be encoded.
    pub fn encode_text(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_exports_its_memory_and_its_counters() {
        let metrics = Metrics::new().unwrap();
        metrics.progress_reads.with_label_values(&["read"]).inc();
        let text = metrics.encode_text().unwrap();

        for line in [
            "cnclip_operator_progress_reads_total{outcome=\"read\"} 1",
            "cnclip_operator_leader 0",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
