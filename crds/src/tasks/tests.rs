use super::*;

fn result(measured: TaskScores) -> TaskResult {
    let (name, dataset) = ("muge".to_owned(), "s3://data/muge/valid/".to_owned());
    TaskResult {
        name,
        dataset,
        digest: String::new(),
        images: 3,
        seconds: 1.0,
        measured,
    }
}

#[test]
fn every_number_is_found_by_its_name_and_only_there() {
    let recall = |r1| RecallAtK {
        r1,
        r5: r1 + 1.0,
        r10: r1 + 2.0,
        mean_recall: r1 + 3.0,
    };

    let recalls = RetrievalRecalls {
        text_to_image: recall(10.0),
        image_to_text: recall(20.0),
    };

    let scores = RetrievalScores {
        texts: 5,
        recalls: Some(recalls),
        threshold: None,
    };

    let retrieval = result(TaskScores::Retrieval(scores));
    let zero_shot = result(TaskScores::ZeroShot(ZeroShotScores {
        classes: 2,
        headline: Metric::RocAuc,
        accuracy: 1.0,
        top5: 2.0,
        mean_per_class: 3.0,
        roc_auc: Some(4.0),
        mean_average_precision: 5.0,
        templates: TemplatesReport::default(),
    }));

    let named = |name: &str| serde_json::from_str::<Metric>(&format!("\"{name}\"")).unwrap();
    for (name, value) in [
        ("textToImage.r1", 10.0),
        ("textToImage.r5", 11.0),
        ("textToImage.r10", 12.0),
        ("textToImage.meanRecall", 13.0),
        ("imageToText.r1", 20.0),
        ("imageToText.r5", 21.0),
        ("imageToText.r10", 22.0),
        ("imageToText.meanRecall", 23.0),
    ] {
        assert_eq!(retrieval.find_score(named(name)), Some(value), "{name}");
        assert_eq!(zero_shot.find_score(named(name)), None, "{name}");
        assert_eq!(named(name).name(), name);
    }

    let names = [
        "accuracy",
        "top5",
        "meanPerClass",
        "rocAuc",
        "meanAveragePrecision",
    ];

    for (name, value) in names.into_iter().zip([1.0, 2.0, 3.0, 4.0, 5.0]) {
        assert_eq!(zero_shot.find_score(named(name)), Some(value), "{name}");
        assert_eq!(retrieval.find_score(named(name)), None, "{name}");
        assert_eq!(named(name).name(), name);
    }

    assert_eq!(zero_shot.primary_metric(), Metric::RocAuc);
}

#[test]
fn a_result_reads_like_the_task_that_asked_for_it() {
    let scores = RetrievalScores {
        texts: 5,
        ..RetrievalScores::default()
    };

    let json = serde_json::to_value(result(TaskScores::Retrieval(scores))).unwrap();
    assert_eq!(json["retrieval"], serde_json::json!({"texts": 5}));
}

#[test]
fn every_kind_of_task_with_a_metric_is_listed() {
    for metric in Metric::ALL {
        assert!(TaskKind::ALL.contains(&metric.task_kind()), "{metric}");
    }
}
