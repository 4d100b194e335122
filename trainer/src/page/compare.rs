//! Several runs side by side, as a table and as a page: for ablations. Reads and writes nothing.

use cnclip_crds::tasks::RecallAtK;
use serde::Serialize;

use super::chart::{Chart, Curve};
use super::{format_timestamp, render_template};
use crate::progress::history::{HistoryPoint, StageCurves, best_recalls};
use crate::text_table::format_table;

/// The curves of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunCurves {
    /// What it is called here.
    pub name: String,
    /// Its stages in their order.
    pub stages: Vec<StageCurves>,
}

#[derive(Serialize)]
struct RunRow<'a> {
    name: &'a str,
    steps: i64,
    pairs: i64,
    loss: Option<f64>,
    /// Texts ask, then images; empty if it was never validated.
    recalls: Vec<RecallAtK>,
}

#[derive(Serialize)]
struct ComparisonView<'a> {
    title: &'a str,
    written: String,
    runs: Vec<RunRow<'a>>,
    charts: Vec<Chart>,
}

/// The page as one HTML file that refers to nothing outside itself.
///
/// # Units
/// `written_at` is in seconds since 1970.
pub fn render_comparison(title: &str, runs: &[RunCurves], written_at: i64) -> String {
    let runs_of = |title: &'static str, unit, value: fn(&HistoryPoint) -> Option<f64>| {
        let curves: Vec<_> = runs.iter().map(|run| run.concat_curve(value)).collect();
        let last = runs
            .iter()
            .map(|run| run.total_over_stages(|point| point.step))
            .max()
            .unwrap_or(0);

        // One stage without a name: its end sets the length of the axis, and no label is drawn.
        Chart::draw_curves(title, unit, &curves, &[(String::new(), last as f64)])
    };

    let charts = [
        runs_of(
            "Validation recall",
            "mean of R@1, 5 and 10 of both directions, %",
            |point| Some(point.recalls?.mean_recall()),
        ),
        runs_of("Loss", "nats", |point| point.loss),
    ];

    render_template(
        "compare.html",
        &ComparisonView {
            title,
            written: format_timestamp(written_at),
            runs: runs.iter().map(RunCurves::summary_row).collect(),
            charts: charts.into_iter().flatten().collect(),
        },
    )
}

const COMPARISON_COLUMNS: [&str; 6] = [
    "RUN",
    "STEPS",
    "PAIRS",
    "LOSS",
    "TEXT→IMAGE R@1/5/10/MR",
    "IMAGE→TEXT R@1/5/10/MR",
];

/// A line for each run: how much it trained, and its best validation in both directions, in percent.
pub fn format_comparison_table(runs: &[RunCurves]) -> String {
    let row = |run: &RunCurves| {
        let RunRow {
            name,
            steps,
            pairs,
            loss,
            recalls,
        } = run.summary_row();

        let loss = loss.map_or("–".to_owned(), |loss| format!("{loss:.3}"));
        let recalls = recalls.iter().map(
            |RecallAtK {
                 r1,
                 r5,
                 r10,
                 mean_recall,
             }| { format!("{r1:.1}/{r5:.1}/{r10:.1}/{mean_recall:.1}") },
        );

        let cells = [name.to_owned(), steps.to_string(), pairs.to_string(), loss];
        cells.into_iter().chain(recalls).collect()
    };

    let rows: Vec<_> = runs.iter().map(row).collect();
    format_table(&COMPARISON_COLUMNS, 1, &rows)
}

impl RunCurves {
    fn summary_row(&self) -> RunRow<'_> {
        let points = || self.stages.iter().flat_map(|stage| &stage.points);
        let mut losses = points().filter_map(|point| point.loss);

        let mut recalls = Vec::new();
        if let Some((_, best)) = best_recalls(points()) {
            recalls.push(best.text_to_image);
            recalls.push(best.image_to_text);
        }

        RunRow {
            name: &self.name,
            steps: self.total_over_stages(|point| point.step),
            pairs: self.total_over_stages(|point| point.samples_seen),
            loss: losses.next_back(),
            recalls,
        }
    }

    /// The last values of all stages together.
    fn total_over_stages(&self, value: fn(&HistoryPoint) -> i64) -> i64 {
        self.stages
            .iter()
            .filter_map(|stage| stage.points.last())
            .map(value)
            .sum()
    }

    /// The stages behind one another.
    fn concat_curve(&self, value: fn(&HistoryPoint) -> Option<f64>) -> Curve {
        let mut points = Vec::new();
        let mut start = 0;
        for stage in &self.stages {
            let at = |point: &HistoryPoint| Some(((start + point.step) as f64, value(point)?));
            points.extend(stage.points.iter().filter_map(at));
            start += stage.points.last().map_or(0, |point| point.step);
        }

        Curve {
            name: self.name.clone(),
            points,
        }
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::tasks::RetrievalRecalls;

    use super::*;

    fn point(step: i64, mean_recall: f64) -> HistoryPoint {
        let recall = RecallAtK {
            r1: 1.0,
            r5: 5.0,
            r10: 10.25,
            mean_recall,
        };

        HistoryPoint {
            step,
            samples_seen: 4 * step,
            loss: Some(3.0 / step as f64),
            recalls: Some(RetrievalRecalls {
                text_to_image: recall,
                image_to_text: RecallAtK::default(),
            }),
            ..HistoryPoint::default()
        }
    }

    fn runs() -> [RunCurves; 2] {
        let stage = |name: &str, points| StageCurves {
            name: name.into(),
            points,
        };

        [
            RunCurves {
                name: "two <stages>".into(),
                stages: vec![
                    stage("align", vec![point(10, 2.0), point(20, 6.0)]),
                    stage("pretrain", vec![point(5, 4.0)]),
                ],
            },
            RunCurves {
                name: "unmeasured".into(),
                stages: Vec::new(),
            },
        ]
    }

    #[test]
    fn a_line_adds_up_the_stages_and_shows_the_best_validation() {
        let table = format_comparison_table(&runs());
        let lines: Vec<_> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();

        let [_, run, empty] = <[Vec<&str>; 3]>::try_from(lines).unwrap();
        let right = [
            "two",
            "<stages>",
            "25",
            "100",
            "0.600",
            "1.0/5.0/10.2/6.0",
            "0.0/0.0/0.0/0.0",
        ];

        assert_eq!(run, right);
        assert_eq!(empty, ["unmeasured", "0", "0", "–"]);
    }

    #[test]
    fn the_page_draws_a_line_for_each_run_that_has_one_and_escapes_their_names() {
        let html = render_comparison("Ablation", &runs(), 0);
        assert!(html.contains("two &lt;stages&gt;") && !html.contains("two <stages>"));
        assert_eq!(
            html.matches("class=\"line-1\"").count(),
            2,
            "a curve in each chart"
        );

        assert_eq!(html.matches("class=\"line-2\"").count(), 0);
        assert!(
            html.contains("over steps 10 to 25"),
            "stages follow one another"
        );

        assert!(html.contains("not validated"));
    }
}
