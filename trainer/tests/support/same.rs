//! Runs that must be one, but for rounding.

use std::path::Path;

use cnclip_crds::report::ProgressReport;

use crate::small;

/// The loss of each report of a run.
pub(crate) fn losses(folder: &Path, name: &str) -> Vec<f64> {
    let curves = std::fs::read_to_string(folder.join(name).join("train/metrics.jsonl")).unwrap();
    let loss =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64();
    curves.lines().filter_map(loss).collect()
}

/// Asserts that weights agree to 1e-4 of the largest. AdamW makes of the rounding of a small gradient
/// the rounding of a step, whatever the size of the weight: so much is granted besides.
fn assert_weights(name: &str, found: &[f32], right: &[f32]) {
    const OF_STEPS: f32 = 2e-6;
    let largest = right.iter().fold(0f32, |most, value| most.max(value.abs()));
    for (found, right) in found.iter().zip(right) {
        let error = (found - right).abs();
        assert!(
            error <= 1e-4 * largest + OF_STEPS,
            "{name}: {found}, expected {right}"
        );
    }
}

/// Asserts that two runs are one, but for rounding.
pub(crate) fn assert_same(
    folder: &Path,
    (name, found): (&str, &ProgressReport),
    (other, right): (&str, &ProgressReport),
) {
    let found_losses = losses(folder, name);
    let right_losses = losses(folder, other);
    assert_eq!(found_losses.len(), right_losses.len());

    for (found, right) in found_losses.iter().zip(&right_losses) {
        assert!(
            (found - right).abs() < 1e-5 * right,
            "{name}: {found_losses:?}, {right_losses:?}"
        );
    }

    assert_eq!(found.validation, right.validation, "{name}");
    assert_eq!(found.samples_seen, right.samples_seen, "{name}");
    assert_eq!(found.samples_skipped, right.samples_skipped, "{name}");
    let right = small::final_tensors(folder, other);

    for (tensor, found) in small::final_tensors(folder, name).iter() {
        let right = &right[tensor].values;
        if tensor.ends_with("in_proj_bias") {
            // Of query, key and value: the key's has no gradient but that of rounding.
            let third = right.len() / 3;
            for part in [0..third, 2 * third..3 * third] {
                assert_weights(tensor, &found.values[part.clone()], &right[part]);
            }
        } else if !tensor.ends_with("self.key.bias") && !tensor.ends_with("k_proj.bias") {
            assert_weights(tensor, &found.values, right);
        }
    }
}
