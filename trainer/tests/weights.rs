//! Files that PyTorch wrote.
#![cfg(test)]

use std::path::PathBuf;

use cnclip::params::{Init, Layout};
use cnclip::weights::{Part, Tensor, Tensors, load, read_pytorch, read_safetensors};

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model").join(file)
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
        assert_eq!(read_pytorch(&golden(file)).unwrap(), right, "{file}");
    }
}

#[test]
fn a_file_that_is_no_checkpoint_is_named() {
    let path = golden("README.md");
    let error = read_pytorch(&path).unwrap_err().to_string();
    let right = format!("{} is no readable PyTorch checkpoint", path.display());
    assert!(error.starts_with(&right), "{error}");
}

#[test]
fn positions_are_resized_to_a_higher_resolution_as_the_reference_does() {
    let golden =
        read_safetensors(&std::fs::read(golden("positions.safetensors")).unwrap()).unwrap();
    let (name, large) = ("visual.positional_embedding", &golden["large"]);
    let mut layout = Layout::default();
    layout.weight(name, &large.shape, Init::Zeros);
    let mut params = layout.build();
    let file = Tensors::from([(name.to_owned(), golden["small"].clone())]);
    load(&mut params, &file, Part::All).unwrap();
    for (found, right) in params.values.iter().zip(&large.values) {
        assert!((found - right).abs() < 1e-6, "{found}, expected {right}");
    }
}
