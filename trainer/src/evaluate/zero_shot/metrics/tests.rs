use std::collections::HashMap;

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics/");

struct Golden {
    tensors: HashMap<String, Tensor>,
    expect: Value,
}

impl Golden {
    fn read() -> Self {
        let expect = std::fs::read(format!("{FOLDER}expect.json")).unwrap();
        let expect: Value = serde_json::from_slice(&expect).unwrap();
        let file = format!("{FOLDER}zero_shot.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();

        Self {
            tensors,
            expect: expect["zero_shot"].clone(),
        }
    }

    fn scores(&self, name: &str) -> Vec<f32> {
        let scores = self.tensors[name]
            .flatten_all()
            .unwrap()
            .to_vec1::<f64>()
            .unwrap();

        scores.into_iter().map(|score| score as f32).collect()
    }

    fn labels(&self, name: &str) -> Vec<usize> {
        let labels = self.tensors[name]
            .flatten_all()
            .unwrap()
            .to_vec1::<i64>()
            .unwrap();

        labels.into_iter().map(|label| label as usize).collect()
    }

    fn near(&self, name: &str, found: f64) {
        let right = self.expect[name].as_f64().unwrap();
        assert!(
            (100.0 * found - right).abs() < 1e-9,
            "{name}: {} for {right}",
            100.0 * found
        );
    }
}

#[test]
fn accuracies_are_those_of_the_reference() {
    let golden = Golden::read();
    let probabilities = golden.scores("probs");
    let right = golden.labels("labels");
    let guesses = ClassPredictions {
        probabilities: &probabilities,
        classes: 12,
        labels: &right,
    };

    golden.near("accuracy", guesses.top_k_accuracy(1));
    let found = per_class_accuracy(&guesses.confusion_matrix());
    golden.near("mean_per_class", mean_of_known(&found));
    let empty = golden.expect["empty_class"].as_u64().unwrap() as usize;
    assert_eq!(found.iter().position(Option::is_none), Some(empty));
    let found: Vec<_> = found.into_iter().flatten().collect();

    assert_eq!(
        serde_json::to_value(found).unwrap(),
        golden.expect["per_class"]
    );
}

/// ELEVATER leaves such classes out before it looks for the most probable one.
#[test]
fn without_the_empty_class_the_mean_is_that_of_elevater() {
    let golden = Golden::read();
    let probabilities = golden.scores("probs");
    let right = golden.labels("labels");
    let kept: Vec<f32> = probabilities
        .chunks(12)
        .flat_map(|row| row[..11].to_vec())
        .collect();

    let guesses = ClassPredictions {
        probabilities: &kept,
        classes: 11,
        labels: &right,
    };

    golden.near(
        "mean_per_class_elevater",
        mean_of_known(&per_class_accuracy(&guesses.confusion_matrix())),
    );
}

#[test]
fn the_area_under_the_curve_is_that_of_scikit_learn_with_ties() {
    let golden = Golden::read();
    let right: Vec<_> = golden
        .labels("binary_labels")
        .iter()
        .map(|&label| label == 1)
        .collect();

    golden.near(
        "roc_auc",
        roc_auc(&golden.scores("binary_scores"), &right).unwrap(),
    );

    assert_eq!(roc_auc(&[0.1, 0.2], &[true, true]), None);
    assert_eq!(roc_auc(&[0.1, 0.1], &[true, false]), Some(0.5));
}

#[test]
fn the_average_precision_is_that_of_elevater_with_ties() {
    let golden = Golden::read();
    let scores = golden.scores("multi_scores");
    let labels = golden.labels("multi_labels");
    let guesses = ClassPredictions {
        probabilities: &scores,
        classes: 12,
        labels: &vec![0; 400],
    };

    let of = |class: usize| {
        let right: Vec<_> = labels.chunks(12).map(|row| row[class] == 1).collect();
        average_precision(&guesses.class_probabilities(class), &right)
    };

    let found: Vec<_> = (0..12).map(of).collect();
    let right = golden.expect["ap_11_point"].as_array().unwrap();
    for (class, (found, right)) in found.iter().zip(right).enumerate() {
        let found = found.unwrap();
        let right = right.as_f64().unwrap();
        assert!(
            (found - right).abs() < 1e-12,
            "class {class}: {found} for {right}"
        );
    }

    golden.near("map_11_point", mean_of_known(&found));
    assert_eq!(average_precision(&[0.5], &[false]), None);
}

#[test]
fn of_equally_probable_classes_the_first_is_the_most_probable() {
    let probabilities = [0.25, 0.25, 0.25, 0.25];
    let of = |right| ClassPredictions {
        probabilities: &probabilities,
        classes: 4,
        labels: right,
    };

    assert_eq!(
        (
            of(&[0]).top_k_accuracy(1),
            of(&[1]).top_k_accuracy(1),
            of(&[1]).top_k_accuracy(2)
        ),
        (1.0, 0.0, 1.0)
    );

    assert_eq!(of(&[3]).confusion_matrix()[3], [1, 0, 0, 0]);
    assert_eq!(of(&[3]).top_k_accuracy(5), 1.0, "fewer classes than five");
}
