//! A curve as numbers that an SVG can be written with. Knows neither HTML nor colours.

use serde::Serialize;

/// Width and height of the drawing. Near the width of a phone, so that letters keep their size.
const CHART_SIZE: (f64, f64) = (360.0, 188.0);
/// The corner of the plot at the top left, and its distance from the bottom right.
const PLOT_INSET: ((f64, f64), (f64, f64)) = ((42.0, 20.0), (8.0, 22.0));
/// More points than this are averaged in groups: a screen shows no more.
const MAX_POINTS: usize = 300;
/// Fewer points than this are drawn as dots too.
const MAX_DOTTED_POINTS: usize = 40;
/// What a letter of a label needs.
const LETTER_WIDTH: f64 = 6.2;

/// One curve of a chart, as (step, value).
#[derive(Clone, Debug, Default)]
pub(super) struct Curve {
    /// What it is; empty if the chart's title says it.
    pub(super) name: String,
    /// Its points in the order of steps.
    pub(super) points: Vec<(f64, f64)>,
}

/// A label at a place along an axis.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct AxisLabel {
    at: f64,
    label: String,
}

#[derive(Clone, Debug, Serialize)]
struct ChartLine {
    name: String,
    last: String,
    path: String,
    dots: Vec<(f64, f64)>,
}

/// Everything that is drawn, in the coordinates of the drawing.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Chart {
    title: &'static str,
    unit: &'static str,
    /// The text for screen readers.
    summary: String,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    across: Vec<AxisLabel>,
    up: Vec<AxisLabel>,
    boundaries: Vec<f64>,
    stages: Vec<AxisLabel>,
    lines: Vec<ChartLine>,
}

impl Chart {
    /// Draws curves over steps; nothing if there is no point. `stages` are the names of the parts
    /// and the steps at which they end.
    pub(super) fn draw_curves(
        title: &'static str,
        unit: &'static str,
        curves: &[Curve],
        stages: &[(String, f64)],
    ) -> Option<Self> {
        let finite = |curve: &Curve| Curve {
            points: curve
                .points
                .iter()
                .copied()
                // A NaN in an SVG path ends the whole curve there.
                .filter(|(x, y)| (x + y).is_finite())
                .collect(),
            ..curve.clone()
        };

        let curves: Vec<_> = curves
            .iter()
            .map(finite)
            .filter(|c| !c.points.is_empty())
            .collect();

        let values = || {
            curves
                .iter()
                .flat_map(|curve| curve.points.iter().map(|point| point.1))
        };

        let low = values().reduce(f64::min)?;
        let high = values().reduce(f64::max)?;
        // At least one step: an axis of no length would divide by zero.
        let last = stages.iter().map(|stage| stage.1).fold(1.0, f64::max);
        let ((left, top), (right, bottom)) = PLOT_INSET;
        let right = CHART_SIZE.0 - right;
        let bottom = CHART_SIZE.1 - bottom;
        // Zero is always on the axis, so that heights can be compared and noise is not magnified.
        let values = ChartAxis::from_value_range(low.min(0.0), high.max(0.0), (bottom, top));
        let steps = ChartAxis {
            low: 0.0,
            high: last,
            step: nice_step(last / 6.0),
            ends: (left, right),
        };

        Some(Self {
            title,
            unit,
            summary: describe_curves(title, &curves, values.step / 100.0),
            width: CHART_SIZE.0,
            height: CHART_SIZE.1,
            left,
            right,
            top,
            bottom,
            across: steps.tick_labels(),
            up: values.tick_labels(),
            // The last stage ends at the plot's own edge.
            boundaries: stages
                .iter()
                .map(|stage| steps.to_coordinate(stage.1))
                .rev()
                .skip(1)
                .collect(),
            stages: stage_labels(stages, &steps),
            lines: curves
                .iter()
                .map(|curve| ChartLine::from_curve(curve, &steps, &values))
                .collect(),
        })
    }
}

fn describe_curves(title: &str, curves: &[Curve], step: f64) -> String {
    let mut descriptions = Vec::new();
    for Curve { name, points } in curves {
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            continue;
        };

        let first_value = format_value(first.1, step);
        let last_value = format_value(last.1, step);
        let first_step = format_value(first.0, 1.0);
        let last_step = format_value(last.0, 1.0);

        let description = format!(
            "{name} from {first_value} to {last_value} over steps {first_step} to {last_step}"
        );
        descriptions.push(description.trim().to_owned());
    }

    format!("{title}: {}", descriptions.join("; "))
}

/// The names of the parts in the middle of each, where they fit.
fn stage_labels(stages: &[(String, f64)], steps: &ChartAxis) -> Vec<AxisLabel> {
    let ends = stages.iter().map(|stage| stage.1);
    let starts = std::iter::once(0.0).chain(ends);
    let marks = stages
        .iter()
        .zip(starts)
        .filter_map(|((name, end), start)| {
            let from = steps.to_coordinate(start);
            let to = steps.to_coordinate(*end);
            let fits = name.chars().count() as f64 * LETTER_WIDTH < to - from;
            fits.then(|| AxisLabel {
                at: round_coordinate((from + to) / 2.0),
                label: name.clone(),
            })
        });

    marks.collect()
}

impl ChartLine {
    fn from_curve(curve: &Curve, steps: &ChartAxis, values: &ChartAxis) -> Self {
        let points = downsample_points(&curve.points)
            .map(|(x, y)| (steps.to_coordinate(x), values.to_coordinate(y)));
        let points: Vec<_> = points.collect();
        let corners: Vec<_> = points.iter().map(|(x, y)| format!("{x} {y}")).collect();
        let last = curve
            .points
            .last()
            .map(|point| format_value(point.1, values.step / 100.0));

        Self {
            name: curve.name.clone(),
            last: last.unwrap_or_default(),
            path: format!("M{}", corners.join("L")),
            dots: if points.len() < MAX_DOTTED_POINTS {
                points
            } else {
                Vec::new()
            },
        }
    }
}

/// Means of neighbours, so many that few enough are left.
fn downsample_points(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    let group = points.len().div_ceil(MAX_POINTS).max(1);
    points.chunks(group).map(|group| {
        let mut x_sum = 0.0;
        let mut y_sum = 0.0;
        for (x, y) in group {
            x_sum += x;
            y_sum += y;
        }

        let count = group.len() as f64;
        (x_sum / count, y_sum / count)
    })
}

/// A range of values and the range of coordinates it is drawn on.
struct ChartAxis {
    low: f64,
    high: f64,
    step: f64,
    ends: (f64, f64),
}

impl ChartAxis {
    /// Begins and ends on round numbers around what is drawn.
    fn from_value_range(low: f64, high: f64, ends: (f64, f64)) -> Self {
        let spread = if high > low {
            high - low
        } else {
            high.abs().max(1.0)
        };

        let step = nice_step(spread / 3.0);
        let low = (low / step).floor() * step;
        let high = (high / step).ceil() * step;
        let high = if high > low { high } else { low + step };

        Self {
            low,
            high,
            step,
            ends,
        }
    }

    fn to_coordinate(&self, value: f64) -> f64 {
        let (start, end) = self.ends;
        round_coordinate(start + (value - self.low) / (self.high - self.low) * (end - start))
    }

    fn tick_labels(&self) -> Vec<AxisLabel> {
        // The sum absorbs rounding, which would drop the last label.
        let count = ((self.high - self.low) / self.step + 1e-6).floor() as usize;
        let value = |number: usize| self.low + number as f64 * self.step;
        (0..=count)
            .map(value)
            .map(|value| AxisLabel {
                at: self.to_coordinate(value),
                label: format_value(value, self.step),
            })
            .collect()
    }
}

/// The next larger of 1, 2 and 5 times a power of ten.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(1e-12).log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    power
        * factors
            .into_iter()
            .find(|factor| factor * power >= step * 0.999)
            .unwrap_or(10.0)
}

fn round_coordinate(coordinate: f64) -> f64 {
    (coordinate * 10.0).round() / 10.0
}

/// A value with as many digits as its distance to the next needs.
fn format_value(value: f64, step: f64) -> String {
    let size = value.abs();
    if size < step / 1000.0 {
        return "0".into();
    }

    if size < 1e-3 || step < 1e-3 {
        return format!("{value:.1e}").replace(".0e", "e");
    }

    match size {
        1e6.. => format!("{}M", value / 1e6),
        1e4.. if step >= 100.0 => format!("{}k", (value / 100.0).round() / 10.0),
        _ => {
            let digits = -step.log10().floor();
            let digits = digits.clamp(0.0, 6.0) as usize;
            format!("{value:.digits$}")
        }
    }
}

#[cfg(test)]
mod tests;
