use std::collections::HashMap;

use serde_json::Value;

use super::*;

fn lines(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/golden/metrics/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(line: &Value, key: &str) -> Vec<i64> {
    line[key].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// The ids of a feature file and its vectors.
fn features(name: &str, key: &str) -> (Vec<i64>, Vec<f32>) {
    let lines = lines(name);
    let numbers = lines.iter().flat_map(|line| line["feature"].as_array().unwrap());
    let numbers = numbers.map(|number| number.as_f64().unwrap() as f32).collect();
    (lines.iter().map(|line| line[key].as_i64().unwrap()).collect(), numbers)
}

fn predictions(queries: &[i64], candidates: &[i64], direction: &Direction) -> Vec<(i64, Vec<i64>)> {
    let found = direction.nearest.iter().map(|row| row.iter().map(|&at| candidates[at]).collect());
    queries.iter().copied().zip(found).collect()
}

fn predicted(name: &str, query: &str, candidates: &str) -> Vec<(i64, Vec<i64>)> {
    let row = |line: &Value| (line[query].as_i64().unwrap(), ids(line, candidates));
    lines(name).iter().map(row).collect()
}

#[test]
fn recalls_and_the_ten_best_are_those_of_the_reference() {
    let (texts, text_features) = features("test_texts.txt_feat.jsonl", "text_id");
    let (images, image_features) = features("test_imgs.img_feat.jsonl", "image_id");
    let place: HashMap<i64, usize> = images.iter().copied().zip(0..).collect();
    let relevant: Vec<Vec<usize>> = (lines("test_texts.jsonl").iter())
        .map(|line| ids(line, "image_ids").iter().map(|id| place[id]).collect())
        .collect();
    let found = Retrieval::of(Pool {
        texts: Features::new(&text_features, 24),
        images: Features::new(&image_features, 24),
        relevant: &relevant,
    });

    assert_eq!(
        predictions(&texts, &images, &found.text_to_image),
        predicted("test_predictions.jsonl", "text_id", "image_ids")
    );
    assert_eq!(
        predictions(&images, &texts, &found.image_to_text),
        predicted("test_tr_predictions.jsonl", "image_id", "text_ids")
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics/expect.json");
    let expect: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let recall = |key: &str| {
        let number = |name| expect[key][name].as_f64().unwrap();
        let (r1, r5, r10, mean_recall) =
            (number("r1"), number("r5"), number("r10"), number("mean_recall"));
        Recall { r1, r5, r10, mean_recall }
    };
    assert_eq!(found.text_to_image.recall, recall("text_to_image"));
    assert_eq!(found.image_to_text.recall, recall("image_to_text"));
    let answerable = expect["images_with_a_text"].as_u64().unwrap() as usize;
    assert_eq!(found.image_to_text.unanswerable, images.len() - answerable);
    assert_eq!(found.text_to_image.unanswerable, 0);
}

#[test]
fn a_query_that_nothing_answers_is_left_out_and_counted() {
    let axes = [1.0, 0.0, 0.0, 1.0];
    let pool = Pool {
        texts: Features::new(&axes, 2),
        images: Features::new(&axes, 2),
        relevant: &[vec![0], vec![]],
    };
    let found = Retrieval::of(pool);
    assert_eq!(found.text_to_image.recall.r1, 100.0);
    assert_eq!(found.text_to_image.unanswerable, 1);
    assert_eq!(found.image_to_text.relevant, [vec![0], vec![]]);
    assert_eq!(found.image_to_text.unanswerable, 1);
}

#[test]
fn a_pool_without_a_single_answer_scores_zero() {
    let pool = Pool {
        texts: Features::new(&[1.0], 1),
        images: Features::new(&[], 1),
        relevant: &[vec![]],
    };
    assert_eq!(Retrieval::of(pool).recalls(), Recalls::default());
}
