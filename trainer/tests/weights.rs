//! Files that PyTorch wrote.
#![cfg(test)]

use cnclip::weights::{Tensor, TensorMap, Weights};
use cnclip_data::store::Store;

fn golden() -> Store {
    Store::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/model")).unwrap()
}

fn read(file: &str) -> TensorMap {
    Weights::open(&golden(), file)
        .unwrap()
        .to_tensors()
        .unwrap()
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor {
        shape: shape.to_vec(),
        values: values.to_vec(),
    }
}

#[test]
fn a_checkpoint_and_a_bare_state_dict_are_read_alike() {
    let weights = [
        ("logit_scale".to_owned(), tensor(&[], &[2.5])),
        (
            "visual.proj".to_owned(),
            tensor(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        ),
    ];

    // The bare one is of a CLIP: its `input_resolution` is left out.
    for file in ["checkpoint.pt", "state_dict.pt"] {
        assert_eq!(read(file), TensorMap::from(weights.clone()), "{file}");
    }
}

#[test]
fn a_file_that_is_no_checkpoint_is_named() {
    let error = Weights::open(&golden(), "README.md")
        .unwrap_err()
        .to_string();

    let right = format!(
        "{} is no readable PyTorch checkpoint",
        golden().object_uri("README.md")
    );

    assert!(error.starts_with(&right), "{error}");
}
