//! The page that people look at: one HTML file with the curves, the recalls, the pictures and where
//! it all came from. Needs nothing but itself to be read, and reads and writes nothing.

mod chart;
mod classes;
mod compare;
mod examples;
mod matrix;
mod picture;
mod published;
mod scores;
mod training;

use cnclip_crds::benchmark::Benchmark;
use cnclip_crds::model::{Architecture, ModelConfig};
use cnclip_crds::report::TaskResult;
use cnclip_crds::run_config::TrainConfig;
use cnclip_crds::zero_shot::Preset;
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use serde::Serialize;

pub use classes::{Class, Classes, Mistaken, Pair};
pub use compare::{Curves, compare, table};
pub use examples::{Answer, Example, Examples};
use scores::Scores;
pub use training::Stage;
use training::Training;

/// One task of the evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Task {
    /// What was measured.
    pub result: TaskResult,
    /// What is shown of it.
    pub shown: Shown,
    /// The public data set that it was measured on, if it is one.
    pub public: Option<Public>,
}

/// A public data set, by the name that a manifest has for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Public {
    /// One of retrieval.
    Retrieval(Benchmark),
    /// One of classification.
    ZeroShot(Preset),
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
    /// Its published name, if it has one.
    pub architecture: Option<Architecture>,
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
            architecture: Architecture::of(model),
            written_at: jiff::Timestamp::now().as_second(),
            provenance: vec![("cnclip".to_owned(), env!("CARGO_PKG_VERSION").to_owned())],
            ..Self::default()
        }
    }
}

#[derive(Serialize)]
struct View<'a> {
    title: &'a str,
    model: &'a str,
    architecture: Option<Architecture>,
    written: String,
    tasks: Vec<Scores<'a>>,
    training: Training<'a>,
    provenance: &'a [(String, String)],
    configuration: &'a str,
}

/// The page as one HTML file.
///
/// # Guarantees
/// Refers to nothing outside itself, and shows every name and text as it was given.
pub fn page(input: &PageInput) -> String {
    let view = View {
        title: &input.title,
        model: &input.model,
        architecture: input.architecture,
        written: written(input.written_at),
        tasks: input
            .tasks
            .iter()
            .map(|task| Scores::of(task, input.architecture))
            .collect(),
        training: Training::of(&input.stages),
        provenance: &input.provenance,
        configuration: &input.configuration,
    };

    render("page.html", &view)
}

/// Every template, by the name under which the others know it.
const TEMPLATES: [(&str, &str); 10] = [
    ("base.html", include_str!("page/base.html")),
    ("style.css", include_str!("page/style.css")),
    ("chart.html", include_str!("page/chart.html")),
    ("page.html", include_str!("page/page.html")),
    ("scores.html", include_str!("page/scores.html")),
    ("zero_shot.html", include_str!("page/zero_shot.html")),
    ("training.html", include_str!("page/training.html")),
    ("examples.html", include_str!("page/examples.html")),
    ("pictures.html", include_str!("page/pictures.html")),
    ("compare.html", include_str!("page/compare.html")),
];

#[expect(
    clippy::expect_used,
    reason = "the templates are a part of the program, and tests render them"
)]
fn render(template: &str, view: &impl Serialize) -> String {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();

    environment.set_syntax(syntax.expect("nothing but whitespace is changed"));
    environment.add_filter("fixed", |value: f64, digits: usize| {
        format!("{value:.digits$}")
    });

    environment.add_filter("difference", difference);
    environment.add_filter("count", count);
    environment.add_filter("duration", duration);

    for (name, text) in TEMPLATES {
        environment
            .add_template(name, text)
            .expect("the template is well formed");
    }

    let template = environment
        .get_template(template)
        .expect("it was just added");

    template
        .render(Serde(view))
        .expect("the template asks for what there is")
}

fn written(at: i64) -> String {
    jiff::Timestamp::from_second(at)
        .map(|time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
        .unwrap_or_default()
}

/// How far one percentage is above another, with its sign.
fn difference(value: f64) -> String {
    match (value * 10.0).round() / 10.0 {
        0.0 => "±0.0".to_owned(),
        above if above > 0.0 => format!("+{above:.1}"),
        below => format!("−{:.1}", below.abs()),
    }
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
