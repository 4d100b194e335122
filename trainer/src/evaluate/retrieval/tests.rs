use std::collections::HashMap;

use serde_json::Value;

use super::*;
use crate::evaluate::predictions;

fn lines(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/golden/metrics/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn ids(line: &Value, key: &str) -> Vec<i64> {
    line[key]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_i64().unwrap())
        .collect()
}

/// The ids of a feature file and its vectors.
fn features(name: &str, key: &str) -> (Vec<i64>, Vec<f32>) {
    let lines = lines(name);
    let numbers = lines
        .iter()
        .flat_map(|line| line["feature"].as_array().unwrap());

    let numbers = numbers
        .map(|number| number.as_f64().unwrap() as f32)
        .collect();

    (
        lines
            .iter()
            .map(|line| line[key].as_i64().unwrap())
            .collect(),
        numbers,
    )
}

fn parsed(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn recalls_and_the_ten_best_are_those_of_the_reference() {
    let (texts, text_features) = features("test_texts.txt_feat.jsonl", "text_id");
    let (images, image_features) = features("test_imgs.img_feat.jsonl", "image_id");
    let place: HashMap<i64, usize> = images.iter().copied().zip(0..).collect();
    let relevant: Vec<Vec<usize>> = (lines("test_texts.jsonl").iter())
        .map(|line| ids(line, "image_ids").iter().map(|id| place[id]).collect())
        .collect();

    let found = RetrievalResult::search_pool(RetrievalPool {
        texts: FeatureMatrix::new(&text_features, 24),
        images: FeatureMatrix::new(&image_features, 24),
        relevant: &relevant,
    });

    let ids = predictions::CorpusIds {
        texts: &texts,
        images: &images,
    };

    let mut of_texts = Vec::new();
    let mut of_images = Vec::new();
    predictions::write_text_to_image(&ids, &found.text_to_image, &mut of_texts).unwrap();
    predictions::write_image_to_text(&ids, &found.image_to_text, &mut of_images).unwrap();
    assert_eq!(parsed(&of_texts), lines("test_predictions.jsonl"));
    assert_eq!(parsed(&of_images), lines("test_tr_predictions.jsonl"));
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/metrics/expect.json"
    );

    let expect: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let recall = |key: &str| {
        let number = |name| expect[key][name].as_f64().unwrap();
        let r1 = number("r1");
        let r5 = number("r5");
        let r10 = number("r10");
        let mean_recall = number("mean_recall");

        RecallAtK {
            r1,
            r5,
            r10,
            mean_recall,
        }
    };

    assert_eq!(found.text_to_image.recall, Some(recall("text_to_image")));
    assert_eq!(found.image_to_text.recall, Some(recall("image_to_text")));
    let answerable = expect["images_with_a_text"].as_u64().unwrap() as usize;
    assert_eq!(found.image_to_text.unanswerable, images.len() - answerable);
    assert_eq!(found.text_to_image.unanswerable, 0);
    let score = predictions::score_json(found.text_to_image.recall.unwrap());

    assert_eq!(
        (&score["success"], &score["score"]),
        (&true.into(), &score["scoreJson"]["score"])
    );

    assert_eq!(score["scoreJson"]["r5"], expect["text_to_image"]["r5"]);
}

#[test]
fn a_query_that_nothing_answers_is_left_out_and_counted() {
    let axes = [1.0, 0.0, 0.0, 1.0];
    let pool = RetrievalPool {
        texts: FeatureMatrix::new(&axes, 2),
        images: FeatureMatrix::new(&axes, 2),
        relevant: &[vec![0], vec![]],
    };

    let found = RetrievalResult::search_pool(pool);
    assert_eq!(found.recalls().unwrap().text_to_image.r1, 100.0);
    assert_eq!(found.text_to_image.unanswerable, 1);
    assert_eq!(found.image_to_text.relevant, [vec![0], vec![]]);
    assert_eq!(found.image_to_text.unanswerable, 1);
}

#[test]
fn a_pool_that_does_not_say_what_is_right_is_searched_and_has_no_recall() {
    let pool = RetrievalPool {
        texts: FeatureMatrix::new(&[1.0, 2.0], 1),
        images: FeatureMatrix::new(&[0.5, 1.0, -1.0], 1),
        relevant: &[vec![], vec![]],
    };

    let found = RetrievalResult::search_pool(pool);
    assert_eq!(found.recalls(), None);
    let first: Vec<_> = found.text_to_image.nearest[1]
        .iter()
        .map(|near| near.index)
        .collect();

    assert_eq!(first, [1, 0, 2], "all three of a pool of less than ten");
    assert_eq!(found.text_to_image.nearest[1][0].similarity, 2.0);
}
