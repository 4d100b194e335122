use cnclip_crds::tasks::{CalibrationConfig, RetrievalConfig, SimilarityThreshold, TaskScores};
use serde_json::Value;

use super::*;
use crate::evaluate::calibration;
use crate::evaluate::tests::{golden, scored, unlabeled};

fn rows(store: &Store, name: &str) -> Vec<Value> {
    let bytes = store.get(name).unwrap();
    let lines = bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty());

    lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[test]
fn predictions_carry_the_ids_of_the_data_set() {
    let scored = scored(&golden(&Store::in_memory()));
    let folder = Store::in_memory();
    write_retrieval_files(&scored, &[], &folder).unwrap();
    let images: Vec<_> = scored
        .corpus
        .images
        .iter()
        .map(|image| image.image_id.clone())
        .collect();

    assert!(
        images.contains(&12_345_678_901.into()),
        "as in the file, not their places: {images:?}"
    );

    let found = rows(&folder, "text_to_image.jsonl");
    assert_eq!(found.len(), scored.corpus.texts.len());
    for (row, text) in found.iter().zip(0..) {
        assert_eq!(
            row["text_id"],
            serde_json::json!(scored.corpus.texts[text].text_id)
        );

        let nearest = scored.retrieval.text_to_image.nearest[text].iter();
        let right: Vec<_> = nearest.map(|near| images[near.index].clone()).collect();
        assert_eq!(row["image_ids"], serde_json::json!(right));
        assert_eq!(right.len(), 10);
    }

    assert_eq!(rows(&folder, "image_to_text.jsonl").len(), 12);
    let recalls = scored.retrieval.recalls().unwrap();
    let score = &rows(&folder, "text_to_image_score.json")[0];
    assert_eq!(score["scoreJson"]["r10"], recalls.text_to_image.r10);
    let score = &rows(&folder, "image_to_text_score.json")[0];

    assert_eq!(score["score"], recalls.image_to_text.mean_recall);
}

#[test]
fn a_data_set_without_labels_has_predictions_but_no_score_files() {
    let scored = scored(&unlabeled(&Store::in_memory()));
    let folder = Store::in_memory();
    write_retrieval_files(&scored, &[], &folder).unwrap();
    let found = rows(&folder, "text_to_image.jsonl");
    let ids: Vec<_> = found
        .iter()
        .map(|row| row["text_id"].as_u64().unwrap())
        .collect();

    assert_eq!(ids, [8, 70, 1000]);
    assert!(
        found
            .iter()
            .all(|row| row["image_ids"].as_array().unwrap().len() == 10)
    );

    assert_eq!(
        folder.get_if_exists("text_to_image_score.json").unwrap(),
        None,
        "nothing is known of it"
    );
}

#[test]
fn below_a_threshold_there_is_no_match() {
    let mut scored = scored(&golden(&Store::in_memory()));
    scored.calibrate_threshold(1.0);
    let TaskScores::Retrieval(scores) = &mut scored.result.measured else {
        panic!("a retrieval")
    };

    assert!(scores.threshold.is_some());
    // The third best first answer divides the texts.
    let first = |near: &Vec<cnclip_compute::nearest_neighbors::Neighbor>| near[0].similarity;
    let mut firsts: Vec<_> = scored
        .retrieval
        .text_to_image
        .nearest
        .iter()
        .map(first)
        .collect();

    firsts.sort_by(|a, b| b.total_cmp(a));
    let similarity = f64::from(firsts[2]);
    scores.threshold = Some(SimilarityThreshold {
        similarity,
        ..SimilarityThreshold::default()
    });

    let folder = Store::in_memory();
    write_retrieval_files(&scored, &[], &folder).unwrap();
    let answers = rows(&folder, ANSWERS_FILE);
    let predicted = rows(&folder, TEXT_TO_IMAGE_FILE);
    assert_eq!(answers.len(), predicted.len());
    let told = firsts
        .iter()
        .filter(|&&one| f64::from(one) >= similarity)
        .count();

    assert!(told >= 3 && told < answers.len(), "{firsts:?}");
    assert_eq!(
        answers
            .iter()
            .filter(|row| !row["image_id"].is_null())
            .count(),
        told
    );

    for (answer, predicted) in answers.iter().zip(predicted) {
        assert_eq!(answer["text_id"], predicted["text_id"]);
        assert!(answer["image_id"].is_null() || answer["image_id"] == predicted["image_ids"][0]);
        let similar = answer["similarity"].as_f64().unwrap() as f32 >= similarity as f32;
        assert_eq!(similar, !answer["image_id"].is_null());
    }
}

#[test]
fn a_precision_that_is_not_reached_answers_nothing() {
    let mut scored = scored(&golden(&Store::in_memory()));
    scored.calibrate_threshold(1.0);
    let TaskScores::Retrieval(scores) = &mut scored.result.measured else {
        panic!("a retrieval")
    };

    scores.threshold = scores.threshold.map(|found| SimilarityThreshold {
        wanted: 101.0,
        ..found
    });

    let folder = Store::in_memory();
    write_retrieval_files(&scored, &[], &folder).unwrap();
    assert_eq!(folder.get_if_exists(ANSWERS_FILE).unwrap(), None);
}

#[test]
fn a_calibration_that_cannot_be_is_told_before_anything_is_encoded() {
    let config = |precision_percent| RetrievalConfig {
        dataset: String::new(),
        benchmark: None,
        calibration: Some(CalibrationConfig { precision_percent }),
    };

    let labeled = golden(&Store::in_memory());
    let unlabeled_set = unlabeled(&Store::in_memory());
    assert_eq!(
        calibration::requested_precision("valid", &config(90.0), &labeled).unwrap(),
        Some(90.0)
    );

    for (precision, dataset, told, code) in [
        (
            0.0,
            &labeled,
            "calibration.precisionPercent of task valid is 0",
            78,
        ),
        (100.5, &labeled, "it must be above 0 and at most 100", 78),
        (f64::NAN, &labeled, "is NaN", 78),
        (
            90.0,
            &unlabeled_set,
            "Task valid cannot be calibrated: memory:",
            65,
        ),
    ] {
        let error =
            calibration::requested_precision("valid", &config(precision), dataset).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(error.exit_code().exit_code(), code);
    }
}

#[test]
fn features_are_written_in_every_format_that_is_asked_for() {
    let scored = scored(&golden(&Store::in_memory()));
    let folder = Store::in_memory();
    let formats = [
        FeatureFormat::Jsonl,
        FeatureFormat::Npy,
        FeatureFormat::Parquet,
    ];

    write_retrieval_files(&scored, &formats, &folder).unwrap();
    let pool = scored.corpus.retrieval_pool();
    for (name, key, features) in [
        ("images", "image_id", pool.images),
        ("texts", "text_id", pool.texts),
    ] {
        let lines = rows(&folder, &format!("{name}.jsonl"));
        assert_eq!(lines.len(), features.count());
        let ids: Vec<_> = lines.iter().map(|line| line[key].clone()).collect();
        assert_eq!(rows(&folder, &format!("{name}.ids.jsonl")), ids);
        let found = lines[2]["feature"].as_array().unwrap()[1].as_f64().unwrap() as f32;
        assert_eq!(found, features.row(2)[1]);
        let array = folder.get(&format!("{name}.npy")).unwrap();
        assert!(array.ends_with(&features.values()[features.values().len() - 1].to_le_bytes()));
        assert!(
            folder
                .get(&format!("{name}.parquet"))
                .unwrap()
                .starts_with(b"PAR1")
        );
    }

    let none = Store::in_memory();
    write_retrieval_files(&scored, &[], &none).unwrap();
    let names: Vec<_> = none
        .list_objects()
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();

    assert_eq!(names.len(), 4, "{names:?}");
}
