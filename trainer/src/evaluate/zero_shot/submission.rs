//! Files of a zero-shot task: the submission that EvalAI scores for ELEVATER, and the results per class.

use cnclip_crds::artifacts;
use cnclip_crds::model::{Architecture, ModelConfig};
use cnclip_crds::tasks::{Metric, TemplatesReport};
use serde::{Serialize, Serializer};

use super::metrics::per_class_accuracy;
use super::{ClassifiedImage, PreparedZeroShot, ScoredZeroShot};
use crate::error::{Error, Result};
use cnclip_data::store::Store;

/// The file for EvalAI.
pub const SUBMISSION_FILE: &str = "submission.json";
/// The file of the classes.
pub const CLASSES_FILE: &str = "classes.json";

/// Description of a model in a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmissionModel {
    /// Its name.
    pub name: String,
    /// Parameters of both towers.
    pub parameters: usize,
    /// Parameters of the image tower.
    pub visual_parameters: usize,
}

impl SubmissionModel {
    /// Describes a model by the names and sizes of its tensors.
    pub fn from_tensors<'a>(
        config: &ModelConfig,
        tensors: impl Iterator<Item = (&'a str, usize)> + Clone,
    ) -> Self {
        let visual = tensors
            .clone()
            .filter(|(name, _)| name.starts_with("visual."));

        let name = published_name(config).unwrap_or_else(|| config.image.to_string());
        Self {
            name: format!("CN-CLIP-{name}"),
            parameters: tensors.map(|(_, size)| size).sum(),
            visual_parameters: visual.map(|(_, size)| size).sum(),
        }
    }
}

/// The name of the published architecture with exactly this configuration.
fn published_name(config: &ModelConfig) -> Option<String> {
    let architecture = Architecture::PUBLISHED
        .into_iter()
        .find(|architecture| architecture.published_model().as_ref() == Some(config))?;

    let name = serde_json::to_value(architecture).ok()?;
    name.as_str().map(str::to_owned)
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
    /// For the one seed: for each image the probability of each class.
    predictions: [PredictionRows<'a>; 1],
}

/// Rows of probabilities, serialized one at a time: those of ImageNet are 450 MB of JSON.
struct PredictionRows<'a> {
    pictures: &'a [ClassifiedImage],
    order: Option<&'a [usize]>,
}

impl Serialize for PredictionRows<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let row = |place: usize| PredictionRow(&self.pictures[place].probabilities);
        match self.order {
            Some(order) => {
                let rows = order.iter().copied().map(row);
                to.collect_seq(rows)
            }
            None => {
                let rows = (0..self.pictures.len()).map(row);
                to.collect_seq(rows)
            }
        }
    }
}

struct PredictionRow<'a>(&'a [f32]);

impl Serialize for PredictionRow<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(round_probability))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClassReport<'a> {
    task: &'a str,
    dataset: &'a str,
    digest: &'a str,
    headline: Metric,
    templates: TemplatesReport,
    classes: Vec<ClassAccuracy<'a>>,
    /// Rows by own class, columns by predicted class.
    confusion: &'a [Vec<u64>],
}

#[derive(Serialize)]
struct ClassAccuracy<'a> {
    name: &'a str,
    pictures: u64,
    /// In percent.
    accuracy: Option<f64>,
}

impl ScoredZeroShot {
    /// Writes the files of the task into its folder of the artifacts.
    ///
    /// # Errors
    /// If it cannot be written.
    ///
    /// # Guarantees
    /// There is a submission only if every image is usable: it must have a row for each.
    pub fn write_files(
        &self,
        ready: &PreparedZeroShot,
        model: &SubmissionModel,
        to: &Store,
    ) -> Result<()> {
        let folder = to.join_prefix(&artifacts::task_folder(&ready.name));
        write_json(&folder, CLASSES_FILE, &self.class_report(ready))?;
        if self.images.len() < ready.files.len() {
            tracing::warn!(
                task = ready.name,
                skipped = ready.files.len() - self.images.len(),
                "no {SUBMISSION_FILE} is written: it must have a row for every image, and some are unusable"
            );

            return Ok(());
        }

        write_json(
            &folder,
            SUBMISSION_FILE,
            &self.build_submission(ready, model),
        )
    }

    fn build_submission<'a>(
        &'a self,
        ready: &'a PreparedZeroShot,
        model: &'a SubmissionModel,
    ) -> Submission<'a> {
        let rows = PredictionRows {
            pictures: &self.images,
            order: ready.order.as_deref(),
        };

        Submission {
            model_name: &model.name,
            dataset_name: &ready.dataset_name,
            // Zero-shot: no parameter is trained on the data set.
            num_trainable_params: 0,
            num_params: model.parameters,
            num_visual_params: model.visual_parameters,
            num_backbone_params: model.parameters,
            n_shot: 0,
            // The format wants one; nothing is sampled in zero-shot classification.
            rnd_seeds: [123],
            predictions: [rows],
        }
    }

    fn class_report<'a>(&'a self, ready: &'a PreparedZeroShot) -> ClassReport<'a> {
        let accuracies = per_class_accuracy(&self.confusion);
        let classes = self.classes.iter().zip(&self.confusion).zip(accuracies);
        let class =
            |((name, row), accuracy): ((&'a String, &Vec<u64>), Option<f64>)| ClassAccuracy {
                name,
                pictures: row.iter().sum(),
                accuracy: accuracy.map(|share| 100.0 * share),
            };

        ClassReport {
            task: &ready.name,
            dataset: &self.result.dataset,
            digest: &self.result.digest,
            headline: ready.primary_metric,
            templates: ready.templates.to_report(),
            classes: classes.map(class).collect(),
            confusion: &self.confusion,
        }
    }
}

/// Rounds to six decimals, as the reference's submissions have.
fn round_probability(probability: &f32) -> f64 {
    (f64::from(*probability) * 1e6).round() / 1e6
}

fn write_json(folder: &Store, name: &str, value: &impl Serialize) -> Result<()> {
    let unwritten = |error| Error::Bug(format!("no JSON can be made: {error}"));
    folder.write_with(name, |to| {
        serde_json::to_writer(to, value).map_err(unwritten)
    })
}
