//! The curves of one stage: a bounded list of points that survives restarts as JSON lines. Reads and
//! writes no file.

use cnclip_crds::report::{ProgressReport, ValidationReport};
use cnclip_crds::tasks::RetrievalRecalls;
use serde::{Deserialize, Serialize};

/// More points are thinned to about half as many.
const MAX_POINTS: usize = 5000;

/// What one report adds to the curves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryPoint {
    /// Steps completed.
    pub step: i64,
    /// When this was said, in seconds since 1970.
    #[serde(default)]
    pub reported_at: i64,
    /// Pairs trained on in this stage.
    #[serde(default)]
    pub samples_seen: i64,
    /// Mean loss since the point before, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The rate of the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Natural logarithm of the factor on the similarities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_scale: Option<f64>,
    /// Norm of the gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Pairs a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<f64>,
    /// Recall, where it was measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalls: Option<RetrievalRecalls>,
}

/// The curves of one stage under its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageCurves {
    /// Its name.
    pub name: String,
    /// Its points in the order of their steps.
    pub points: Vec<HistoryPoint>,
}

/// The points of a stage in the order of their steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingHistory {
    points: Vec<HistoryPoint>,
}

impl TrainingHistory {
    /// Adds what a report says; one of the same step as the last is merged with it.
    pub fn push(&mut self, report: &ProgressReport) {
        let measured = report
            .validation
            .filter(|validation| validation.step == report.step);

        let point = HistoryPoint {
            step: report.step,
            reported_at: report.reported_at,
            samples_seen: report.samples_seen,
            loss: report.loss,
            learning_rate: report.learning_rate,
            logit_scale: report.logit_scale,
            gradient_norm: report.gradient_norm,
            samples_per_second: report.samples_per_second,
            recalls: measured.map(|validation| validation.recalls),
        };

        // A report is cumulative: a later one of the same step holds all of the earlier.
        self.points
            .truncate(self.points.partition_point(|old| old.step < point.step));
        self.points.push(point);

        if self.points.len() > MAX_POINTS {
            self.thin_points();
        }
    }

    /// The points.
    pub fn points(&self) -> &[HistoryPoint] {
        &self.points
    }

    /// The validation with the highest mean recall over both directions, the later of equals.
    pub fn best_validation(&self) -> Option<ValidationReport> {
        best_recalls(&self.points).map(|(step, recalls)| ValidationReport { step, recalls })
    }

    /// Keeps points at even distances, so that the curve's shape stays; those with a recall have
    /// their own distances, so that none is lost to a neighbour without one.
    fn thin_points(&mut self) {
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else {
            return;
        };

        let first = first.step;
        let last = last.step;
        // A resumed run finds here which of its checkpoints is the best.
        let best = best_recalls(&self.points).map(|(step, _)| step);
        // A quarter of the limit for points with and for points without a recall: half of it is
        // left, so thinning is rare.
        // Saturating: steps are read from a file, which may hold any number.
        let distance = last.saturating_sub(first) / (MAX_POINTS as i64 / 4) + 1;
        let mut due = [first; 2];
        self.points.retain(|point| {
            let due = &mut due[usize::from(point.recalls.is_some())];
            let keep = point.step >= *due || point.step == last || Some(point.step) == best;
            if keep {
                *due = point.step.saturating_add(distance);
            }

            keep
        });
    }

    /// One JSON object a line.
    pub fn to_jsonl(&self) -> String {
        let lines = self
            .points
            .iter()
            .filter_map(|point| serde_json::to_string(point).ok());

        lines.flat_map(|line| [line, "\n".into()]).collect()
    }

    /// Reads what [`Self::to_jsonl`] wrote. Lines that are no points are left out: a curve is not
    /// worth a run.
    pub fn from_jsonl(text: &str) -> Self {
        let mut points: Vec<HistoryPoint> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();

        // `push` searches by step, and a file edited by hand may be in another order.
        points.sort_by_key(|point| point.step);
        Self { points }
    }
}

/// Of points, the step and the recalls with the highest mean over both directions, the later of
/// equals.
pub fn best_recalls<'a>(
    points: impl IntoIterator<Item = &'a HistoryPoint>,
) -> Option<(i64, RetrievalRecalls)> {
    let measured = points
        .into_iter()
        .filter_map(|point| Some((point.step, point.recalls?)));

    measured.max_by(|(_, a), (_, b)| {
        let a = a.mean_recall();
        let b = b.mean_recall();
        a.total_cmp(&b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(step: i64) -> ProgressReport {
        ProgressReport {
            step,
            loss: Some(1.0 / step as f64),
            ..ProgressReport::default()
        }
    }

    fn measured(step: i64) -> ProgressReport {
        let recalls = RetrievalRecalls::default();
        ProgressReport {
            validation: Some(ValidationReport { step, recalls }),
            ..after(step)
        }
    }

    fn steps(history: &TrainingHistory) -> Vec<i64> {
        history.points.iter().map(|point| point.step).collect()
    }

    #[test]
    fn a_resumed_run_goes_on_where_its_checkpoint_was() {
        let mut history = TrainingHistory::default();
        [10, 20, 30, 40]
            .into_iter()
            .for_each(|step| history.push(&after(step)));

        let mut resumed = TrainingHistory::from_jsonl(&history.to_jsonl());
        assert_eq!(resumed, history);
        resumed.push(&after(30));
        assert_eq!(steps(&resumed), [10, 20, 30]);
    }

    #[test]
    fn a_step_has_one_point_even_if_it_is_told_twice_or_late() {
        let mut history = TrainingHistory::default();
        [10, 20]
            .into_iter()
            .for_each(|step| history.push(&after(step)));

        history.push(&measured(20));
        assert_eq!(steps(&history), [10, 20]);
        assert!(history.points[1].recalls.is_some());
        history.push(&after(15));
        assert_eq!(steps(&history), [10, 15]);
    }

    #[test]
    fn an_old_validation_belongs_to_its_own_step_alone() {
        let mut history = TrainingHistory::default();
        history.push(&measured(10));
        history.push(&ProgressReport {
            step: 20,
            ..measured(10)
        });

        assert_eq!(history.points[1].recalls, None);
    }

    #[test]
    fn long_curves_stay_short_even_and_keep_their_validations() {
        let mut history = TrainingHistory::default();
        for step in (10..=400_000).step_by(10) {
            let report = if step % 4000 == 0 {
                measured(step)
            } else {
                after(step)
            };

            history.push(&report);
        }

        let steps = steps(&history);
        assert!(
            (1000..=MAX_POINTS).contains(&steps.len()),
            "{}",
            steps.len()
        );

        assert_eq!((steps[0], steps[steps.len() - 1]), (10, 400_000));
        let validations = history
            .points
            .iter()
            .filter(|p| p.recalls.is_some())
            .count();

        assert_eq!(validations, 100);
        let gaps: Vec<i64> = steps.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            gaps.iter().all(|&gap| gap <= 700),
            "{:?}",
            gaps.iter().max()
        );
    }

    #[test]
    fn steps_of_any_distance_are_thinned() {
        let step = |n: i64| format!("{{\"step\":{}}}\n", i64::MIN + n);
        let text: String = (0..MAX_POINTS as i64).map(step).collect();
        let mut history = TrainingHistory::from_jsonl(&text);
        history.push(&ProgressReport {
            step: i64::MAX,
            ..ProgressReport::default()
        });

        assert_eq!(history.points.len(), 2, "the first and the last");
    }

    #[test]
    fn lines_that_are_no_points_cost_only_themselves() {
        let text = "{\"step\":10,\"loss\":2.5}\n{\"step\":20,\"lo\nnull\n{\"step\":30}\n";
        assert_eq!(steps(&TrainingHistory::from_jsonl(text)), [10, 30]);
    }
}
