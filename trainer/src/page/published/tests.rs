use cnclip_crds::tasks::DatasetPreset;
use cnclip_crds::tasks::{
    Metric, RetrievalRecalls, RetrievalScores, TemplatesReport, ZeroShotScores,
};

use super::*;
use crate::page::{ClassDetails, RetrievalExamples, TaskDetails};

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
        shown: Some(TaskDetails::Retrieval(RetrievalExamples::default())),
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
        shown: Some(TaskDetails::ZeroShot(ClassDetails::default())),
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
            assert!(PublishedComparison::for_task(&zero_shot(one.preset), Some(model)).is_some());
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
