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

        let scores = match &result.measured {
            TaskScores::Retrieval(scores) => scores,
            TaskScores::ZeroShot(_) => return None,
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
mod tests {
    use cnclip_crds::tasks::DatasetPreset;
    use cnclip_crds::tasks::{
        Metric, RetrievalRecalls, RetrievalScores, TemplatesReport, ZeroShotScores,
    };

    use super::super::{ClassDetails, RetrievalExamples, TaskDetails};
    use super::*;

    const MODELS: [Architecture; 5] = [
        Architecture::Rn50,
        Architecture::VitB16,
        Architecture::VitL14,
        Architecture::VitL14At336,
        Architecture::VitH14,
    ];

    fn result(measured: TaskScores) -> TaskResult {
        let (name, dataset) = ("task".to_owned(), "s3://data/".to_owned());
        TaskResult {
            name,
            dataset,
            digest: String::new(),
            images: 1000,
            seconds: 1.0,
            measured,
        }
    }

    fn retrieval(benchmark: Benchmark, recalls: Option<RetrievalRecalls>) -> TaskSection {
        let scores = RetrievalScores {
            texts: 5000,
            recalls,
            threshold: None,
        };

        TaskSection {
            result: result(TaskScores::Retrieval(scores)),
            shown: TaskDetails::Retrieval(RetrievalExamples::default()),
            public: Some(PublicDataset::Retrieval(benchmark)),
        }
    }

    fn zero_shot(preset: DatasetPreset) -> TaskSection {
        let scores = ZeroShotScores {
            classes: 2,
            headline: Metric::RocAuc,
            accuracy: 50.0,
            top5: 100.0,
            mean_per_class: 49.0,
            roc_auc: Some(56.0),
            mean_average_precision: 51.0,
            templates: TemplatesReport::default(),
        };

        TaskSection {
            result: result(TaskScores::ZeroShot(scores)),
            shown: TaskDetails::ZeroShot(ClassDetails::default()),
            public: Some(PublicDataset::ZeroShot(preset)),
        }
    }

    #[test]
    fn every_public_data_set_has_numbers_of_every_published_model() {
        let published = load_published();
        assert_eq!(
            (published.retrieval.len(), published.zero_shot.len()),
            (3, 21)
        );

        for model in MODELS {
            for one in &published.retrieval {
                let comparison =
                    PublishedComparison::for_task(&retrieval(one.benchmark, None), Some(model))
                        .unwrap();
                let back = if one.benchmark == Benchmark::MugeValid {
                    0
                } else {
                    2
                };

                assert_eq!(
                    (
                        comparison.text_to_image.len(),
                        comparison.image_to_text.len()
                    ),
                    (2, back)
                );

                assert!(comparison.headline.iter().all(Option::is_some));
            }

            for one in &published.zero_shot {
                assert!(
                    PublishedComparison::for_task(&zero_shot(one.preset), Some(model)).is_some()
                );
            }
        }
    }

    #[test]
    fn published_recalls_grow_with_k_and_means_are_theirs_up_to_rounding() {
        for one in load_published().retrieval {
            for directions in one.models.values() {
                let back = directions.image_to_text.iter();
                for trained in back.chain([&directions.text_to_image]) {
                    for values in [&trained.zero_shot, &trained.fine_tuned] {
                        assert!(values[0] < values[1] && values[1] < values[2], "{values:?}");
                        let mean = values[..3].iter().sum::<f64>() / 3.0;
                        assert!(
                            values
                                .get(3)
                                .is_none_or(|published| (published - mean).abs() < 0.1)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_preset_has_published_numbers() {
        let mut presets: Vec<_> = load_published()
            .zero_shot
            .iter()
            .map(|one| one.preset)
            .collect();
        presets.sort_unstable();
        let mut all = DatasetPreset::ALL;
        all.sort_unstable();
        assert_eq!(presets, all);
    }

    /// The macro averages that the paper's table 12 ends in.
    #[test]
    fn twenty_data_sets_have_the_published_averages() {
        let published = load_published();
        let twenty = published
            .zero_shot
            .iter()
            .filter(|one| one.preset != DatasetPreset::Imagenet1k);

        let twenty: Vec<_> = twenty.collect();
        for (model, average) in MODELS.into_iter().zip([40.9, 53.5, 60.0, 60.2, 62.3]) {
            let sum: f64 = twenty.iter().map(|one| one.models[&model]).sum();
            let found = sum / twenty.len() as f64;
            assert!(
                (found - average).abs() < 0.06,
                "{model:?}: {found}, published {average}"
            );
        }
    }

    #[test]
    fn differences_are_from_the_published_to_the_measured() {
        let there = RecallAtK {
            r1: 64.7,
            r5: 86.9,
            r10: 90.0,
            mean_recall: 80.0,
        };

        let recalls = RetrievalRecalls {
            text_to_image: there,
            image_to_text: RecallAtK::default(),
        };

        let task = retrieval(Benchmark::Flickr30kCnTest, Some(recalls));
        let comparison = PublishedComparison::for_task(&task, Some(Architecture::VitB16)).unwrap();
        let row = &comparison.text_to_image[0];
        let values: Vec<_> = row.numbers.iter().map(|number| number.value).collect();
        assert_eq!(
            (row.trained, &values[..3]),
            ("zero-shot", &[62.7, 86.9, 92.8][..])
        );

        let above = row.numbers.iter().map(|number| number.difference.unwrap());
        let expected = [2.0, 0.0, -2.8, 80.0 - (62.7 + 86.9 + 92.8) / 3.0];
        assert!(
            above
                .zip(expected)
                .all(|(found, right)| (found - right).abs() < 1e-9)
        );

        assert_eq!(
            comparison.size, None,
            "1000 images and 5000 texts are the published data set"
        );

        let classes = PublishedComparison::for_task(
            &zero_shot(DatasetPreset::HatefulMemes),
            Some(Architecture::VitB16),
        )
        .unwrap();
        let [number, none] = classes.headline;
        assert_eq!((number.unwrap().value, none), (56.2, None));
        assert!(
            (number.unwrap().difference.unwrap() + 0.2).abs() < 1e-9,
            "ROC AUC, the headline"
        );

        assert_eq!(
            classes.size.as_deref(),
            Some("500 images"),
            "measured on 1000"
        );
    }

    #[test]
    fn nothing_is_beside_what_was_not_published() {
        let custom = PublishedComparison::for_task(&retrieval(Benchmark::MugeValid, None), None);
        let unpublished = Some(Architecture::VitB32);
        let unpublished =
            PublishedComparison::for_task(&retrieval(Benchmark::MugeValid, None), unpublished);
        let own = TaskSection {
            public: None,
            ..zero_shot(DatasetPreset::Mnist)
        };

        let own = PublishedComparison::for_task(&own, Some(Architecture::VitB16));
        assert_eq!((custom, unpublished, own), (None, None, None));
    }
}
