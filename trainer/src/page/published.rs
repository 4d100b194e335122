//! Published scores of a model on a public data set, next to those measured here. Measures nothing.

use std::collections::BTreeMap;

use cnclip_crds::model::Architecture;
use cnclip_crds::tasks::Benchmark;
use cnclip_crds::tasks::DatasetPreset;
use cnclip_crds::tasks::{RecallAtK, TaskResult, TaskScores};
use serde::{Deserialize, Serialize};

use super::{PublicDataset, TaskSection, format_count};

/// Numbers of the paper and of the reference's own list of results.
const PUBLISHED_JSON: &str = include_str!("published.json");

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PublishedResults {
    retrieval: Vec<PublishedRetrieval>,
    zero_shot: Vec<PublishedZeroShot>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PublishedRetrieval {
    benchmark: Benchmark,
    name: String,
    source: String,
    images: i64,
    texts: i64,
    note: Option<String>,
    models: BTreeMap<Architecture, PublishedDirections>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PublishedDirections {
    text_to_image: PublishedRecalls,
    image_to_text: Option<PublishedRecalls>,
}

/// R@1, R@5, R@10, and their mean where it was published.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PublishedRecalls {
    zero_shot: Vec<f64>,
    fine_tuned: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PublishedZeroShot {
    preset: DatasetPreset,
    name: String,
    source: String,
    images: i64,
    models: BTreeMap<Architecture, f64>,
}

/// What was published for the model and the data set of a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct PublishedComparison {
    model: Architecture,
    /// The data set as the paper calls it.
    name: String,
    /// Where the numbers stand.
    source: String,
    note: Option<String>,
    /// How large the data set is there, if it is larger or smaller here.
    size: Option<String>,
    text_to_image: Vec<PublishedRecallRow>,
    image_to_text: Vec<PublishedRecallRow>,
    /// The number that the data set is compared by, without and with training on it.
    pub(super) headline: [Option<PublishedNumber>; 2],
}

/// Published recalls of one way of training.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct PublishedRecallRow {
    trained: &'static str,
    /// R@1, R@5, R@10 and their mean.
    numbers: Vec<PublishedNumber>,
}

/// A published number.
///
/// # Units
/// Percent
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct PublishedNumber {
    value: f64,
    /// How far the measured one is above it; none if there is no measured one.
    difference: Option<f64>,
}

impl PublishedComparison {
    /// Nothing for towers that were not published, and for a data set that is not named or that no
    /// number was published on.
    pub(super) fn for_task(task: &TaskSection, model: Option<Architecture>) -> Option<Self> {
        let published = load_published();
        let model = model?;
        match task.public.as_ref()? {
            PublicDataset::Retrieval(benchmark) => {
                let found = published
                    .retrieval
                    .iter()
                    .find(|one| one.benchmark == *benchmark)?;

                found.compare_result(&task.result, model)
            }
            PublicDataset::ZeroShot(preset) => {
                let found = published
                    .zero_shot
                    .iter()
                    .find(|one| one.preset == *preset)?;

                found.compare_result(&task.result, model)
            }
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "the file is a part of the program, and tests read it"
)]
fn load_published() -> PublishedResults {
    serde_json::from_str(PUBLISHED_JSON).expect("the numbers are well formed")
}

impl PublishedRetrieval {
    fn compare_result(
        &self,
        result: &TaskResult,
        model: Architecture,
    ) -> Option<PublishedComparison> {
        let PublishedDirections {
            text_to_image,
            image_to_text,
        } = self.models.get(&model)?;

        let TaskScores::Retrieval(scores) = &result.measured else {
            return None;
        };

        let recalls = scores.recalls.as_ref();
        let text_to_image = text_to_image.recall_rows(recalls.map(|both| both.text_to_image));
        let image_to_text = image_to_text
            .as_ref()
            .map(|published| published.recall_rows(recalls.map(|both| both.image_to_text)));
        let same = (result.images, scores.texts) == (self.images, self.texts);
        let sizes = || {
            format!(
                "{} images and {} texts",
                format_count(self.images),
                format_count(self.texts)
            )
        };

        Some(PublishedComparison {
            model,
            name: self.name.clone(),
            source: self.source.clone(),
            note: self.note.clone(),
            size: (!same).then(sizes),
            headline: [0, 1].map(|row| text_to_image.get(row)?.numbers.first().copied()),
            text_to_image,
            image_to_text: image_to_text.unwrap_or_default(),
        })
    }
}

impl PublishedRecalls {
    fn recall_rows(&self, measured: Option<RecallAtK>) -> Vec<PublishedRecallRow> {
        let measured = measured.map(
            |RecallAtK {
                 r1,
                 r5,
                 r10,
                 mean_recall,
             }| [r1, r5, r10, mean_recall],
        );

        let row = |trained, values: &[f64]| {
            let mean = values.iter().take(3).sum::<f64>() / 3.0;
            // Where no mean was published it is that of the three that were.
            let values = values.iter().copied().chain([mean]).take(4).enumerate();
            let number =
                |(at, value)| PublishedNumber::new(value, measured.map(|measured| measured[at]));

            PublishedRecallRow {
                trained,
                numbers: values.map(number).collect(),
            }
        };

        vec![
            row("zero-shot", &self.zero_shot),
            row("fine-tuned", &self.fine_tuned),
        ]
    }
}

impl PublishedZeroShot {
    fn compare_result(
        &self,
        result: &TaskResult,
        model: Architecture,
    ) -> Option<PublishedComparison> {
        let value = *self.models.get(&model)?;
        let size =
            (result.images != self.images).then(|| format!("{} images", format_count(self.images)));
        Some(PublishedComparison {
            model,
            name: self.name.clone(),
            source: self.source.clone(),
            note: None,
            size,
            text_to_image: Vec::new(),
            image_to_text: Vec::new(),
            headline: [
                Some(PublishedNumber::new(
                    value,
                    result.find_score(result.primary_metric()),
                )),
                None,
            ],
        })
    }
}

impl PublishedNumber {
    fn new(value: f64, measured: Option<f64>) -> Self {
        Self {
            value,
            difference: measured.map(|measured| measured - value),
        }
    }
}

#[cfg(test)]
mod tests;
