//! What other programs take of a classification: the file that EvalAI scores ELEVATER's data sets with,
//! and each class by itself. Computes no probability.

use cnclip_crds::artifacts;
use cnclip_crds::model::{Architecture, ModelConfig};
use cnclip_crds::report::{Metric, TemplatesReport};
use serde::{Serialize, Serializer};

use super::metrics::per_class;
use super::{Picture, Ready, Scored};
use crate::error::{Error, Result};
use cnclip_data::store::Store;

/// The file for EvalAI.
pub const SUBMISSION: &str = "submission.json";
/// The file of the classes.
pub const CLASSES: &str = "classes.json";

/// What a submission says of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Numbers that were trained, of both towers.
    pub parameters: usize,
    /// Those of the image tower.
    pub visual: usize,
}

impl Model {
    /// A model of which these are the names and sizes of its tensors.
    pub fn of<'a>(
        config: &ModelConfig,
        tensors: impl Iterator<Item = (&'a str, usize)> + Clone,
    ) -> Self {
        let known = |architecture: &&Architecture| architecture.towers().as_ref() == Some(config);
        let known = Architecture::PUBLISHED.iter().find(known);
        let name = known.and_then(|known| serde_json::to_value(known).ok());
        let name = name
            .as_ref()
            .and_then(|name| name.as_str())
            .map(str::to_owned);

        let visual = tensors
            .clone()
            .filter(|(name, _)| name.starts_with("visual."));

        Self {
            name: format!(
                "CN-CLIP-{}",
                name.unwrap_or_else(|| config.image.to_string())
            ),
            parameters: tensors.map(|(_, size)| size).sum(),
            visual: visual.map(|(_, size)| size).sum(),
        }
    }
}

#[derive(Serialize)]
struct Submission<'a> {
    model_name: &'a str,
    dataset_name: &'a str,
    num_trainable_params: usize,
    num_params: usize,
    num_visual_params: usize,
    num_backbone_params: usize,
    n_shot: usize,
    rnd_seeds: [u64; 1],
    /// Of the one seed, for each picture the probability of each class.
    predictions: [Rows<'a>; 1],
}

/// Rows of probabilities, each made when it is written: those of ImageNet are 450 MB of JSON.
struct Rows<'a> {
    pictures: &'a [Picture],
    order: Option<&'a [usize]>,
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let row = |place: usize| Row(&self.pictures[place].probabilities);
        match self.order {
            Some(order) => to.collect_seq(order.iter().map(|&place| row(place))),
            None => to.collect_seq((0..self.pictures.len()).map(row)),
        }
    }
}

struct Row<'a>(&'a [f32]);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(rounded))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Classes<'a> {
    task: &'a str,
    dataset: &'a str,
    digest: &'a str,
    headline: Metric,
    templates: TemplatesReport,
    classes: Vec<Class<'a>>,
    /// Row by right class, column by the class that its pictures were taken for.
    confusion: &'a [Vec<u64>],
}

#[derive(Serialize)]
struct Class<'a> {
    name: &'a str,
    pictures: u64,
    /// In percent.
    accuracy: Option<f64>,
}

impl Scored {
    /// Writes what other programs take under the task's folder of the artifacts.
    ///
    /// # Errors
    /// If it cannot be written.
    ///
    /// # Guarantees
    /// There is a submission only if every picture could be used: it must have a row for each.
    pub fn write(&self, ready: &Ready, model: &Model, to: &Store) -> Result<()> {
        let folder = to.join(&artifacts::task(&ready.name));
        put(&folder, CLASSES, &self.by_class(ready))?;
        if self.pictures.len() < ready.files.len() {
            tracing::warn!(
                task = ready.name,
                skipped = ready.files.len() - self.pictures.len(),
                "no {SUBMISSION} is written, for it must have a row for every picture"
            );

            return Ok(());
        }

        put(&folder, SUBMISSION, &self.submission(ready, model))
    }

    fn submission<'a>(&'a self, ready: &'a Ready, model: &'a Model) -> Submission<'a> {
        let rows = Rows {
            pictures: &self.pictures,
            order: ready.order.as_deref(),
        };

        Submission {
            model_name: &model.name,
            dataset_name: &ready.called,
            num_trainable_params: 0,
            num_params: model.parameters,
            num_visual_params: model.visual,
            num_backbone_params: model.parameters,
            n_shot: 0,
            rnd_seeds: [123],
            predictions: [rows],
        }
    }

    fn by_class<'a>(&'a self, ready: &'a Ready) -> Classes<'a> {
        let accuracies = per_class(&self.confusion);
        let classes = self.classes.iter().zip(&self.confusion).zip(accuracies);
        let class = |((name, row), accuracy): ((&'a String, &Vec<u64>), Option<f64>)| Class {
            name,
            pictures: row.iter().sum(),
            accuracy: accuracy.map(|share| 100.0 * share),
        };

        Classes {
            task: &ready.name,
            dataset: &self.result.dataset,
            digest: &self.result.digest,
            headline: ready.headline,
            templates: ready.templates.report(),
            classes: classes.map(class).collect(),
            confusion: &self.confusion,
        }
    }
}

/// To six decimals.
fn rounded(probability: &f32) -> f64 {
    (f64::from(*probability) * 1e6).round() / 1e6
}

fn put(folder: &Store, name: &str, value: &impl Serialize) -> Result<()> {
    let unwritten = |error| Error::Bug(format!("no JSON can be made: {error}"));
    folder.write(name, |to| {
        serde_json::to_writer(to, value).map_err(unwritten)
    })
}
