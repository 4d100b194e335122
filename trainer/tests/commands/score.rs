use serde_json::Value;

use super::*;

const FEATURES: [&str; 3] = [
    "test_imgs.img_feat.jsonl",
    "test_texts.txt_feat.jsonl",
    "test_texts.jsonl",
];

pub(super) fn score(files: &[PathBuf; 3]) -> [&str; 7] {
    let [images, texts, relevance] = files.each_ref().map(|file| words(file));
    [
        "score",
        "--images",
        images,
        "--texts",
        texts,
        "--relevance",
        relevance,
    ]
}

#[test]
fn features_of_anybody_are_scored_as_the_reference_does() {
    let expect = std::fs::read_to_string(golden("metrics/expect.json")).unwrap();
    let expect: Value = expect.parse().unwrap();
    for relevance in ["test_texts.jsonl", "test_texts.tr.jsonl"] {
        let files = [FEATURES[0], FEATURES[1], relevance];
        let files = files.map(|name| golden("metrics").join(name));
        let found: Value = serde_json::from_slice(&succeed(&score(&files), b"")).unwrap();

        for direction in ["text_to_image", "image_to_text"] {
            for key in ["r1", "r5", "r10", "mean_recall"] {
                let found = &found[direction][key];
                let right = &expect[direction][key];
                let error = (found.as_f64().unwrap() - right.as_f64().unwrap()).abs();
                assert!(error < 1e-9, "{direction} {key}: {found}, expected {right}");
            }
        }
    }
}

#[test]
fn what_was_found_is_written_for_the_references_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("new/folder");
    let files = FEATURES.map(|name| golden("metrics").join(name));
    let arguments = score(&files);
    let predictions = ["--predictions", words(&to)];
    let told = succeed(&[&arguments[..], &predictions[..]].concat(), b"");
    let told: Value = serde_json::from_slice(&told).unwrap();
    let read = |name: &str| std::fs::read_to_string(to.join(name)).unwrap();

    let rows = |text: &str| {
        text.lines()
            .map(|l| l.parse().unwrap())
            .collect::<Vec<Value>>()
    };

    let right = golden("metrics/test_predictions.jsonl");
    assert_eq!(
        rows(&read("text_to_image.jsonl")),
        rows(&std::fs::read_to_string(right).unwrap())
    );

    let score: Value = read("image_to_text_score.json").parse().unwrap();
    assert_eq!(score["scoreJson"]["r5"], told["image_to_text"]["r5"]);

    // Without labels there is nothing to say, and the predictions are the same.
    let blind = folder.path().join("blind");
    let predictions = ["--predictions", words(&blind)];
    assert_eq!(
        succeed(&[&arguments[..5], &predictions[..]].concat(), b""),
        b""
    );

    let same = std::fs::read_to_string(blind.join("text_to_image.jsonl")).unwrap();
    assert_eq!(same, read("text_to_image.jsonl"));
    assert!(!blind.join("text_to_image_score.json").exists());
}

#[test]
fn features_that_cannot_be_scored_are_told_by_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["images", "texts", "relevance"].map(|name| folder.path().join(name));
    let good = [
        "{\"image_id\": 1, \"feature\": [1, 0]}\n{\"image_id\": 2, \"feature\": [0, 1]}",
        "{\"text_id\": 1, \"feature\": [1, 0]}",
        "{\"text_id\": 1, \"image_ids\": [2]}",
    ];

    let table = [
        (0, "", "holds no feature"),
        (
            0,
            "{\"image_id\": 1}",
            "line 1, column 15: missing field `feature`",
        ),
        (
            0,
            "{\"image_id\": 1, \"feature\": [NaN]}",
            "line 1, column 32: invalid type: null, expected f32",
        ),
        (
            0,
            "{\"image_id\": 1, \"feature\": [1e39]}",
            "number 0 of feature 1 is no finite",
        ),
        (
            0,
            "{\"image_id\": 1, \"feature\": []}",
            "feature 1 has 0 numbers",
        ),
        (
            0,
            "{\"image_id\": 1, \"feature\": [1]}",
            "features of 1 numbers",
        ),
        (
            1,
            "{\"text_id\": 1, \"feature\": [1, 0]}\n{\"text_id\": 1, \"feature\": [1, 0]}",
            "line 2: feature 1 was given before",
        ),
        (
            1,
            "{\"text_id\": 1, \"feature\": [1, 0]}\n{\"text_id\": 2, \"feature\": [1]}",
            "line 2: feature 2 has 1 numbers, the first has 2",
        ),
        (2, "{\"text_id\": 1, \"image_ids\": [2, 3]}", "line 1: "),
        (
            2,
            "{\"text_id\": 4, \"image_ids\": [2]}",
            "has no feature 4",
        ),
        (2, "{\"text_id\": 1, \"image_ids\": []}", "has no labels"),
        (
            2,
            "{\"text_id\": 1}",
            "Expected {\\\"text_id\\\": 1, \\\"image_ids\\\": [2, …]}",
        ),
    ];

    for (which, spoiled, expected) in table {
        for (place, text) in good.iter().enumerate() {
            let text = if place == which { spoiled } else { text };
            std::fs::write(&files[place], text).unwrap();
        }

        refuse(&score(&files), b"", 65, expected);
    }
}
