//! Files that PyTorch wrote.
#![cfg(test)]

use cnclip::store::Store;
use cnclip::weights::{Tensor, Tensors, Weights};

fn golden() -> Store {
    Store::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/model")).unwrap()
}

fn read(file: &str) -> Tensors {
    Weights::open(&golden(), file).unwrap().to_tensors().unwrap()
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor { shape: shape.to_vec(), values: values.to_vec() }
}

#[test]
fn a_checkpoint_and_a_bare_state_dict_are_read_alike() {
    let weights = [
        ("logit_scale".to_owned(), tensor(&[], &[2.5])),
        ("visual.proj".to_owned(), tensor(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])),
    ];
    let checkpoint = Tensors::from(weights.clone());
    let mut state_dict = Tensors::from(weights);
    state_dict.insert("input_resolution".into(), tensor(&[], &[224.0]));
    for (file, right) in [("checkpoint.pt", checkpoint), ("state_dict.pt", state_dict)] {
        assert_eq!(read(file), right, "{file}");
    }
}

#[test]
fn a_file_that_is_no_checkpoint_is_named() {
    let error = Weights::open(&golden(), "README.md").unwrap_err().to_string();
    let right = format!("{} is no readable PyTorch checkpoint", golden().uri_of("README.md"));
    assert!(error.starts_with(&right), "{error}");
}
