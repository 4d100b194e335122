//! What a page shows of a training: a line for each stage, and curves over all of them.

use serde::Serialize;

use super::chart::{Chart, Curve};
use crate::progress::history::{HistoryPoint, StageCurves};

/// All stages together.
#[derive(Serialize)]
pub(super) struct TrainingSection<'a> {
    stages: Vec<StageRow<'a>>,
    pairs: i64,
    seconds: i64,
    charts: Vec<Chart>,
}

#[derive(Serialize)]
struct StageRow<'a> {
    name: &'a str,
    steps: i64,
    pairs: i64,
    seconds: i64,
    speed: Option<f64>,
    loss: Option<f64>,
}

impl<'a> TrainingSection<'a> {
    /// Their lines, sums and curves.
    pub(super) fn from_stages(stages: &'a [StageCurves]) -> Self {
        let rows: Vec<_> = stages.iter().map(stage_row).collect();
        Self {
            pairs: rows.iter().map(|stage| stage.pairs).sum(),
            seconds: rows.iter().map(|stage| stage.seconds).sum(),
            stages: rows,
            charts: draw_charts(stages),
        }
    }
}

fn stage_row(stage: &StageCurves) -> StageRow<'_> {
    let first = stage.points.first();
    let last = stage.points.last();
    let seconds = first
        .zip(last)
        .map(|(first, last)| last.reported_at - first.reported_at);

    let speeds = || {
        stage
            .points
            .iter()
            .filter_map(|point| point.samples_per_second)
    };

    let count = speeds().count();
    StageRow {
        name: &stage.name,
        steps: last.map_or(0, |point| point.step),
        pairs: last.map_or(0, |point| point.samples_seen),
        seconds: seconds.unwrap_or(0),
        speed: (count > 0).then(|| speeds().sum::<f64>() / count as f64),
        loss: stage.points.iter().rev().find_map(|point| point.loss),
    }
}

/// The name of a curve and its value at a point.
type CurveSpec = (&'static str, fn(&HistoryPoint) -> Option<f64>);

/// Title, unit and curves of each chart.
const CHART_SPECS: [(&str, &str, &[CurveSpec]); 6] = [
    ("Loss", "nats", &[("", |point| point.loss)]),
    (
        "Validation recall",
        "mean of R@1, 5 and 10, %",
        &[
            ("text→image", |point| {
                Some(point.recalls?.text_to_image.mean_recall)
            }),
            ("image→text", |point| {
                Some(point.recalls?.image_to_text.mean_recall)
            }),
        ],
    ),
    ("Learning rate", "", &[("", |point| point.learning_rate)]),
    (
        "Scale of similarities",
        "factor",
        &[("", |point| Some(point.logit_scale?.exp()))],
    ),
    ("Gradient norm", "", &[("", |point| point.gradient_norm)]),
    (
        "Speed",
        "pairs/s",
        &[("", |point| point.samples_per_second)],
    ),
];

/// The curves of all stages behind one another.
fn draw_charts(stages: &[StageCurves]) -> Vec<Chart> {
    let mut ends = Vec::new();
    let mut points = Vec::new();
    let mut start = 0.0;

    for stage in stages {
        points.extend(
            stage
                .points
                .iter()
                .map(|point| (start + point.step as f64, point)),
        );

        start += stage.points.last().map_or(0.0, |point| point.step as f64);
        ends.push((stage.name.clone(), start));
    }

    let curve = |&(name, value): &CurveSpec| {
        let points = points
            .iter()
            .filter_map(|(step, point)| Some((*step, value(point)?)));

        Curve {
            name: name.to_owned(),
            points: points.collect(),
        }
    };

    let draw = |(title, unit, curves): (_, _, &[CurveSpec])| {
        Chart::draw_curves(
            title,
            unit,
            &curves.iter().map(curve).collect::<Vec<_>>(),
            &ends,
        )
    };

    CHART_SPECS.into_iter().filter_map(draw).collect()
}
