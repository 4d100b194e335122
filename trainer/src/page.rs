//! The HTML report: one file with curves, scores, example images and provenance. Refers to nothing outside
//! itself, and reads and writes nothing.

mod chart;
mod classes;
mod compare;
mod confusion_matrix;
mod examples;
mod published;
mod scores;
mod thumbnail;
mod training;

use cnclip_crds::model::{Architecture, ModelConfig};
use cnclip_crds::tasks::Benchmark;
use cnclip_crds::tasks::DatasetPreset;
use cnclip_crds::tasks::TaskResult;
use cnclip_crds::trainer_config::TrainConfig;
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use serde::Serialize;

pub use classes::{ClassDetails, ClassSummary, ConfusedPair, MisclassifiedImage};
pub use compare::{RunCurves, format_comparison_table, render_comparison};
pub use examples::{QueryExample, RetrievalExamples, RetrievedImage};
use scores::TaskScoreSection;
use training::TrainingSection;

use crate::duration::format_duration;
use crate::progress::history::StageCurves;

/// One task of the evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskSection {
    /// What was measured.
    pub result: TaskResult,
    /// What is shown of it beside its scores, if anything.
    pub shown: Option<TaskDetails>,
    /// The public data set that it was measured on, if it is one.
    pub public: Option<PublicDataset>,
}

/// A public data set, by the name that a manifest has for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PublicDataset {
    /// One of retrieval.
    Retrieval(Benchmark),
    /// One of classification.
    ZeroShot(DatasetPreset),
}

/// What is shown of a task, by its kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskDetails {
    /// Of a retrieval.
    Retrieval(RetrievalExamples),
    /// Of a zero-shot classification.
    ZeroShot(ClassDetails),
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
    pub stages: Vec<StageCurves>,
    /// The tasks in their order; none while there is no evaluation.
    pub tasks: Vec<TaskSection>,
    /// Where everything came from: names and values.
    pub provenance: Vec<(String, String)>,
    /// The configuration, as people would write it.
    pub configuration: String,
}

impl PageInput {
    /// What there is to say of a training by itself.
    pub fn from_training(config: &TrainConfig, stages: Vec<StageCurves>) -> Self {
        Self {
            title: config.run.name.clone(),
            stages,
            configuration: serde_norway::to_string(config).unwrap_or_default(),
            ..Self::from_model(&config.model)
        }
    }

    /// What there is to say of weights that come without a training.
    pub fn from_model(model: &ModelConfig) -> Self {
        Self {
            model: model.to_string(),
            architecture: Architecture::from_model(model),
            written_at: jiff::Timestamp::now().as_second(),
            provenance: vec![("cnclip".to_owned(), env!("CARGO_PKG_VERSION").to_owned())],
            ..Self::default()
        }
    }
}

#[derive(Serialize)]
struct PageView<'a> {
    title: &'a str,
    model: &'a str,
    architecture: Option<Architecture>,
    written: String,
    tasks: Vec<TaskScoreSection<'a>>,
    training: TrainingSection<'a>,
    provenance: &'a [(String, String)],
    configuration: &'a str,
}

/// The page as one HTML file.
///
/// # Guarantees
/// Refers to nothing outside itself, and shows every name and text as it was given.
pub fn render_page(input: &PageInput) -> String {
    let view = PageView {
        title: &input.title,
        model: &input.model,
        architecture: input.architecture,
        written: format_timestamp(input.written_at),
        tasks: input
            .tasks
            .iter()
            .map(|task| TaskScoreSection::from_task(task, input.architecture))
            .collect(),
        training: TrainingSection::from_stages(&input.stages),
        provenance: &input.provenance,
        configuration: &input.configuration,
    };

    render_template("page.html", &view)
}

/// Every template, by the name under which others include it.
const TEMPLATES: [(&str, &str); 10] = [
    ("base.html", include_str!("page/base.html")),
    ("style.css", include_str!("page/style.css")),
    ("chart.html", include_str!("page/chart.html")),
    ("page.html", include_str!("page/page.html")),
    ("scores.html", include_str!("page/scores.html")),
    ("zero_shot.html", include_str!("page/zero_shot.html")),
    ("training.html", include_str!("page/training.html")),
    ("examples.html", include_str!("page/examples.html")),
    ("images.html", include_str!("page/images.html")),
    ("compare.html", include_str!("page/compare.html")),
];

#[expect(
    clippy::expect_used,
    reason = "the templates are a part of the program, and tests render them"
)]
fn render_template(template: &str, view: &impl Serialize) -> String {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();

    environment.set_syntax(syntax.expect("nothing but whitespace is changed"));
    environment.add_filter("fixed", |value: f64, digits: usize| {
        format!("{value:.digits$}")
    });

    environment.add_filter("difference", format_difference);
    environment.add_filter("count", format_count);
    environment.add_filter("duration", format_duration);

    // Names that end in `.html` turn on escaping: class names and texts come from data sets.
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

fn format_timestamp(at: i64) -> String {
    jiff::Timestamp::from_second(at)
        .map(|time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
        .unwrap_or_default()
}

/// How far one percentage is above another, with its sign.
fn format_difference(value: f64) -> String {
    // Rounded before its sign is looked at: -0.04 is no `−0.0`.
    let rounded = (value * 10.0).round() / 10.0;
    let size = rounded.abs();

    if size == 0.0 {
        "±0.0".to_owned()
    } else if rounded > 0.0 {
        format!("+{size:.1}")
    } else {
        format!("−{size:.1}")
    }
}

/// A number in groups of three digits.
fn format_count(value: i64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();

    for (index, digit) in digits.char_indices() {
        let digits_left = digits.len() - index;
        if index > 0 && value >= 0 && digits_left.is_multiple_of(3) {
            grouped.push(',');
        }

        grouped.push(digit);
    }

    grouped
}

#[cfg(test)]
mod tests;
