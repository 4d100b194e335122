//! Several runs beside one another, as a table and as a page: what an ablation is read by. Reads and
//! writes nothing.

use cnclip_crds::report::{Recall, Recalls};
use serde::Serialize;

use super::chart::{Chart, Curve};
use super::{Stage, render, written};
use crate::report::aligned::aligned;
use crate::report::history::{Point, best};

/// The curves of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curves {
    /// What it is called here.
    pub name: String,
    /// Its stages in their order.
    pub stages: Vec<Stage>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    steps: i64,
    pairs: i64,
    loss: Option<f64>,
    /// Texts ask, then images; empty if it was never validated.
    recalls: Vec<Recall>,
}

#[derive(Serialize)]
struct View<'a> {
    title: &'a str,
    written: String,
    runs: Vec<Row<'a>>,
    charts: Vec<Chart>,
}

/// The page as one HTML file that refers to nothing outside itself.
///
/// # Units
/// `written_at` is in seconds since 1970.
pub fn compare(title: &str, runs: &[Curves], written_at: i64) -> String {
    let runs_of = |title: &'static str, unit, value: fn(&Point) -> Option<f64>| {
        let curves: Vec<_> = runs.iter().map(|run| run.curve(value)).collect();
        let last = runs
            .iter()
            .map(|run| run.sum(|point| point.step))
            .max()
            .unwrap_or(0);

        Chart::draw((title, unit), &curves, &[(String::new(), last as f64)])
    };

    let charts = [
        runs_of(
            "Validation recall",
            "mean of R@1, 5 and 10 of both directions, %",
            mean_recall,
        ),
        runs_of("Loss", "nats", |point| point.loss),
    ];

    render(
        "compare.html",
        &View {
            title,
            written: written(written_at),
            runs: runs.iter().map(Curves::row).collect(),
            charts: charts.into_iter().flatten().collect(),
        },
    )
}

fn mean_recall(point: &Point) -> Option<f64> {
    let Recalls {
        text_to_image,
        image_to_text,
    } = point.recalls?;

    Some((text_to_image.mean_recall + image_to_text.mean_recall) / 2.0)
}

const COLUMNS: [&str; 6] = [
    "RUN",
    "STEPS",
    "PAIRS",
    "LOSS",
    "TEXT→IMAGE R@1/5/10/MR",
    "IMAGE→TEXT R@1/5/10/MR",
];

/// A line for each run: how much it trained, and its best validation in both directions, in percent.
pub fn table(runs: &[Curves]) -> String {
    let row = |run: &Curves| {
        let Row {
            name,
            steps,
            pairs,
            loss,
            recalls,
        } = run.row();

        let loss = loss.map_or("–".to_owned(), |loss| format!("{loss:.3}"));
        let recalls = recalls.iter().map(
            |Recall {
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
    aligned((&COLUMNS, 1), &rows)
}

impl Curves {
    fn row(&self) -> Row<'_> {
        let points = || self.stages.iter().flat_map(|stage| &stage.points);
        let best = best(points()).map(|(_, best)| [best.text_to_image, best.image_to_text]);
        Row {
            name: &self.name,
            steps: self.sum(|point| point.step),
            pairs: self.sum(|point| point.samples_seen),
            loss: points().filter_map(|point| point.loss).next_back(),
            recalls: best.map(Vec::from).unwrap_or_default(),
        }
    }

    /// The last values of all stages together.
    fn sum(&self, value: fn(&Point) -> i64) -> i64 {
        self.stages
            .iter()
            .filter_map(|stage| stage.points.last())
            .map(value)
            .sum()
    }

    /// The stages behind one another.
    fn curve(&self, value: fn(&Point) -> Option<f64>) -> Curve {
        let mut points = Vec::new();
        let mut start = 0;
        for stage in &self.stages {
            let at = |point: &Point| Some(((start + point.step) as f64, value(point)?));
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
    use super::*;

    fn point(step: i64, mean_recall: f64) -> Point {
        let recall = Recall {
            r1: 1.0,
            r5: 5.0,
            r10: 10.25,
            mean_recall,
        };

        Point {
            step,
            samples_seen: 4 * step,
            loss: Some(3.0 / step as f64),
            recalls: Some(Recalls {
                text_to_image: recall,
                image_to_text: Recall::default(),
            }),
            ..Point::default()
        }
    }

    fn runs() -> [Curves; 2] {
        let stage = |name: &str, points| Stage {
            name: name.into(),
            points,
        };

        [
            Curves {
                name: "two <stages>".into(),
                stages: vec![
                    stage("align", vec![point(10, 2.0), point(20, 6.0)]),
                    stage("pretrain", vec![point(5, 4.0)]),
                ],
            },
            Curves {
                name: "unmeasured".into(),
                stages: Vec::new(),
            },
        ]
    }

    #[test]
    fn a_line_adds_up_the_stages_and_shows_the_best_validation() {
        let table = table(&runs());
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
        let html = compare("Ablation", &runs(), 0);
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
