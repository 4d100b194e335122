//! Scores of evaluations as gauges, up to a limit. Series of deleted evaluations are removed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use cnclip_crds::{
    names,
    tasks::{Metric, ResultStatus},
};
use prometheus::{GaugeVec, IntGauge, Opts, Registry};

use crate::sync::lock_ignoring_poison;

/// Maximum number of exported series: evaluation and task names are chosen by users, and Prometheus stores
/// each combination of labels.
const MAX_SERIES: usize = 10_000;

/// Namespace and name of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct EvaluationKey {
    namespace: String,
    name: String,
}

/// Score gauges of all evaluations; cheap to clone.
#[derive(Clone)]
pub struct ScoreGauges {
    score: GaugeVec,
    left_out: IntGauge,
    known: Arc<Mutex<BTreeMap<EvaluationKey, ExportedScores>>>,
}

/// Exported series of one evaluation, and the number of series dropped.
#[derive(Default)]
struct ExportedScores {
    exported: Vec<(String, Metric)>,
    left_out: usize,
}

impl ScoreGauges {
    /// Registers the gauges, without any series.
    ///
    /// # Errors
    /// If the registry has metrics of these names.
    pub(super) fn register_gauges(registry: &Registry) -> prometheus::Result<Self> {
        let help = "Score of an evaluation task, in percent, by task and metric.";
        let labels = ["namespace", "name", "task", "metric"];
        let score = GaugeVec::new(Opts::new(names::METRIC_SCORE, help), &labels)?;
        let help = "Number of scores that are not exported, because of the limit on series.";
        let left_out = IntGauge::new("cnclip_operator_scores_left_out", help)?;

        registry.register(Box::new(score.clone()))?;
        registry.register(Box::new(left_out.clone()))?;
        Ok(Self {
            score,
            left_out,
            known: Arc::default(),
        })
    }

    /// Replaces the series of an evaluation.
    pub fn set_gauges(&self, namespace: &str, name: &str, results: &[ResultStatus]) {
        self.update_known(|known| {
            let key = EvaluationKey {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };

            // Removed before the limit is computed: the replaced series must not count twice.
            self.remove_gauges(&key, known.remove(&key));
            let mut remaining =
                MAX_SERIES.saturating_sub(known.values().map(|one| one.exported.len()).sum());
            let mut fresh = ExportedScores::default();

            for (task, metric, value) in results.iter().flat_map(parse_scores) {
                if remaining == 0 {
                    fresh.left_out += 1;
                    continue;
                }

                remaining -= 1;
                let labels = [namespace, name, task, metric.name()];
                self.score.with_label_values(&labels).set(value);
                fresh.exported.push((task.to_owned(), metric));
            }

            known.insert(key, fresh);
        });
    }

    /// Removes the series of a deleted evaluation.
    pub fn remove_evaluation(&self, namespace: &str, name: &str) {
        self.retain_evaluations(|other_namespace, other| {
            (other_namespace, other) != (namespace, name)
        });
    }

    /// Removes the series of all evaluations but those that exist.
    pub fn retain_evaluations(&self, is_there: impl Fn(&str, &str) -> bool) {
        self.update_known(|known| {
            let gone = known.extract_if(.., |key, _| !is_there(&key.namespace, &key.name));
            gone.for_each(|(key, old)| self.remove_gauges(&key, Some(old)));
        });
    }

    fn update_known(&self, change: impl FnOnce(&mut BTreeMap<EvaluationKey, ExportedScores>)) {
        // The lock is held over the whole change, so that two reconciliations cannot both use the
        // last free series. A poisoned lock is used: at worst a gauge is stale until the evaluation
        // is next reconciled.
        let mut known = lock_ignoring_poison(&self.known);
        change(&mut known);
        let left_out: usize = known.values().map(|one| one.left_out).sum();
        self.left_out
            .set(i64::try_from(left_out).unwrap_or(i64::MAX));
    }

    fn remove_gauges(&self, key: &EvaluationKey, old: Option<ExportedScores>) {
        for (task, metric) in old.into_iter().flat_map(|old| old.exported) {
            let labels: [&str; 4] = [&key.namespace, &key.name, &task, metric.name()];
            // The only error is that the series does not exist.
            drop(self.score.remove_label_values(&labels));
        }
    }
}

fn parse_scores(result: &ResultStatus) -> impl Iterator<Item = (&str, Metric, f64)> {
    let scores = result.all_scores().into_iter();
    scores.filter_map(|(metric, text)| Some((result.name.as_str(), metric, text.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::metrics::Metrics;

    fn results(tasks: usize, r1: &str) -> Vec<ResultStatus> {
        let recall = json!({"r1": r1, "r5": "2.00", "r10": "3.00", "meanRecall": "2.00"});
        let recalls = json!({"textToImage": recall, "imageToText": recall});
        let task = |number| json!({"name": format!("t{number}"), "images": 1, "retrieval": {"texts": 1, "recalls": recalls}});
        serde_json::from_value(json!((0..tasks).map(task).collect::<Vec<_>>())).unwrap()
    }

    fn lines(metrics: &Metrics) -> Vec<String> {
        let text = metrics.encode_text().unwrap();
        let scores = text
            .lines()
            .filter(|line| line.starts_with("cnclip_evaluation_score{"));

        scores.map(str::to_owned).collect()
    }

    #[test]
    fn numbers_of_evaluations_come_change_and_go_with_them() {
        let metrics = Metrics::new().unwrap();
        metrics.scores.set_gauges("team", "a", &results(2, "1.00"));
        metrics.scores.set_gauges("team", "b", &results(1, "1.00"));
        assert_eq!(lines(&metrics).len(), 24);
        metrics.scores.set_gauges("team", "a", &results(1, "58.40"));
        let expected = "cnclip_evaluation_score{metric=\"textToImage.r1\",name=\"a\",namespace=\"team\",task=\"t0\"} 58.4";
        let found = lines(&metrics);

        assert!(
            found.len() == 16 && found.iter().any(|line| line == expected),
            "{found:?}"
        );

        metrics.scores.remove_evaluation("team", "a");
        assert!(
            lines(&metrics)
                .iter()
                .all(|line| line.contains("name=\"b\""))
        );

        metrics.scores.retain_evaluations(|_, _| false);
        assert_eq!(lines(&metrics), [""; 0]);
    }

    #[test]
    fn scores_beyond_the_limit_are_counted_and_not_exported() {
        let metrics = Metrics::new().unwrap();
        for number in 0..25 {
            metrics
                .scores
                .set_gauges("team", &format!("e{number}"), &results(64, "1.00"));
        }

        assert_eq!(lines(&metrics).len(), MAX_SERIES);
        let left_out = 25 * 64 * 8 - MAX_SERIES;
        let line = format!("cnclip_operator_scores_left_out {left_out}");
        assert!(metrics.encode_text().unwrap().contains(&line));
    }
}
