//! The page that people look at: one HTML file with the curves, the recalls, the pictures and where
//! it all came from. Needs nothing but itself to be read, and reads and writes nothing.

mod chart;
mod classes;
mod compare;
mod examples;
mod picture;

use cnclip_crds::model::ModelConfig;
use cnclip_crds::report::{Measured, TaskResult};
use cnclip_crds::run_config::TrainConfig;
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use serde::Serialize;

use super::history::Point;
use chart::{Chart, Curve};
pub use classes::Classes;
pub use compare::{Curves, compare, table};
pub use examples::{Answer, Example, Examples};

/// One stage of the training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Its curves.
    pub points: Vec<Point>,
}

/// One task of the evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Task {
    /// What was measured.
    pub result: TaskResult,
    /// What is shown of it.
    pub shown: Shown,
}

/// What is shown of a task, by its kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Shown {
    /// Of a retrieval.
    Retrieval(Examples),
    /// Of a zero-shot classification.
    ZeroShot(Classes),
}

/// Everything that a page says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PageInput {
    /// Name of the run.
    pub title: String,
    /// The model in a few words.
    pub model: String,
    /// When the page is written, in seconds since 1970.
    pub written_at: i64,
    /// The stages in their order; none if only a checkpoint is known.
    pub stages: Vec<Stage>,
    /// The tasks in their order; none while there is no evaluation.
    pub tasks: Vec<Task>,
    /// Where everything came from: names and values.
    pub provenance: Vec<(String, String)>,
    /// The configuration, as people would write it.
    pub configuration: String,
}

impl PageInput {
    /// What there is to say of a training by itself.
    pub fn of(config: &TrainConfig, stages: Vec<Stage>) -> Self {
        Self {
            title: config.run.name.clone(),
            stages,
            configuration: serde_norway::to_string(config).unwrap_or_default(),
            ..Self::of_weights(&config.model)
        }
    }

    /// What there is to say of weights that come without a training.
    pub fn of_weights(model: &ModelConfig) -> Self {
        Self {
            model: model.to_string(),
            written_at: jiff::Timestamp::now().as_second(),
            provenance: vec![("cnclip".to_owned(), env!("CARGO_PKG_VERSION").to_owned())],
            ..Self::default()
        }
    }
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

#[derive(Serialize)]
struct View<'a> {
    title: &'a str,
    model: &'a str,
    written: String,
    tasks: &'a [Task],
    /// Those with recalls.
    retrievals: Vec<&'a Task>,
    stages: Vec<StageRow<'a>>,
    pairs: i64,
    seconds: i64,
    charts: Vec<Chart>,
    provenance: &'a [(String, String)],
    configuration: &'a str,
}

/// The page as one HTML file.
///
/// # Guarantees
/// Refers to nothing outside itself, and shows every name and text as it was given.
pub fn page(input: &PageInput) -> String {
    let stages: Vec<_> = input.stages.iter().map(row).collect();
    let view = View {
        title: &input.title,
        model: &input.model,
        written: written(input.written_at),
        tasks: &input.tasks,
        retrievals: input.tasks.iter().filter(|task| has_recalls(&task.result)).collect(),
        pairs: stages.iter().map(|stage| stage.pairs).sum(),
        seconds: stages.iter().map(|stage| stage.seconds).sum(),
        stages,
        charts: charts(&input.stages),
        provenance: &input.provenance,
        configuration: &input.configuration,
    };
    render("page.html", &view)
}

/// Every template, by the name under which the others know it.
const TEMPLATES: [(&str, &str); 5] = [
    ("base.html", include_str!("page/base.html")),
    ("style.css", include_str!("page/style.css")),
    ("chart.html", include_str!("page/chart.html")),
    ("page.html", include_str!("page/page.html")),
    ("compare.html", include_str!("page/compare.html")),
];

#[expect(
    clippy::expect_used,
    reason = "the templates are a part of the program, and tests render them"
)]
fn render(template: &str, view: &impl Serialize) -> String {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("nothing but whitespace is changed"));
    environment.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    environment.add_filter("count", count);
    environment.add_filter("duration", duration);
    for (name, text) in TEMPLATES {
        environment.add_template(name, text).expect("the template is well formed");
    }
    let template = environment.get_template(template).expect("it was just added");
    template.render(Serde(view)).expect("the template asks for what there is")
}

fn has_recalls(result: &TaskResult) -> bool {
    matches!(&result.measured, Measured::Retrieval(scores) if scores.recalls.is_some())
}

fn written(at: i64) -> String {
    jiff::Timestamp::from_second(at)
        .map(|time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
        .unwrap_or_default()
}

fn row(stage: &Stage) -> StageRow<'_> {
    let (first, last) = (stage.points.first(), stage.points.last());
    let seconds = first.zip(last).map(|(first, last)| last.reported_at - first.reported_at);
    let speeds = || stage.points.iter().filter_map(|point| point.samples_per_second);
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
type Series = (&'static str, fn(&Point) -> Option<f64>);

/// Title, unit and curves of each chart.
const CHARTS: [(&str, &str, &[Series]); 6] = [
    ("Loss", "nats", &[("", |point| point.loss)]),
    (
        "Validation recall",
        "mean of R@1, 5 and 10, %",
        &[
            ("text→image", |point| Some(point.recalls?.text_to_image.mean_recall)),
            ("image→text", |point| Some(point.recalls?.image_to_text.mean_recall)),
        ],
    ),
    ("Learning rate", "", &[("", |point| point.learning_rate)]),
    ("Scale of similarities", "factor", &[("", |point| Some(point.logit_scale?.exp()))]),
    ("Gradient norm", "", &[("", |point| point.gradient_norm)]),
    ("Speed", "pairs/s", &[("", |point| point.samples_per_second)]),
];

/// The curves of all stages behind one another.
fn charts(stages: &[Stage]) -> Vec<Chart> {
    let mut ends = Vec::new();
    let mut points = Vec::new();
    let mut start = 0.0;
    for stage in stages {
        points.extend(stage.points.iter().map(|point| (start + point.step as f64, point)));
        start += stage.points.last().map_or(0.0, |point| point.step as f64);
        ends.push((stage.name.clone(), start));
    }
    let curve = |&(name, value): &Series| {
        let points = points.iter().filter_map(|(step, point)| Some((*step, value(point)?)));
        Curve { name: name.to_owned(), points: points.collect() }
    };
    let draw = |(title, unit, curves): (_, _, &[Series])| {
        Chart::draw((title, unit), &curves.iter().map(curve).collect::<Vec<_>>(), &ends)
    };
    CHARTS.into_iter().filter_map(draw).collect()
}

/// A number in groups of three digits.
fn count(value: i64) -> String {
    let digits = value.to_string();
    let place = |(at, digit): (usize, char)| {
        let comma = at > 0 && (digits.len() - at).is_multiple_of(3) && value >= 0;
        [comma.then_some(','), Some(digit)]
    };
    digits.char_indices().flat_map(place).flatten().collect()
}

fn duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests;
