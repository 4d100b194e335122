use cnclip::weights::Tensor;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;

use super::*;

fn assert_close(name: &str, found: &Tensor, right: &Tensor, tolerance: f32) {
    assert_eq!(found.shape, right.shape, "{name}");
    let largest = right
        .values
        .iter()
        .fold(1e-6f32, |most, value| most.max(value.abs()));

    for (found, right) in found.values.iter().zip(&right.values) {
        assert!(
            (found - right).abs() <= tolerance * largest,
            "{name}: {found}, expected {right}"
        );
    }
}

/// Writes a batch of the golden pictures of a model with some captions.
fn write_batch(to: &Path, io: &TensorMap, texts: &Tensor) {
    let images = &io["images"];
    let size: usize = images.shape[1..].iter().product();
    let pixels: Vec<u8> = images.values[..size]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();

    let ids: Vec<u8> = texts
        .values
        .iter()
        .flat_map(|&v| (v as i64).to_le_bytes())
        .collect();

    let images = TensorView::new(Dtype::F32, images.shape[1..].to_vec(), &pixels).unwrap();
    let texts = TensorView::new(Dtype::I64, texts.shape.clone(), &ids).unwrap();
    serialize_to_file([("images", images), ("texts", texts)], None, to).unwrap();
}

fn gradients(model: &str, texts: impl Fn(&TensorMap) -> Tensor) -> TensorMap {
    let folder = tempfile::tempdir().unwrap();
    let [batch, output] = ["batch", "output"].map(|name| folder.path().join(name));
    let model = golden("model").join(model);
    let io = tensors(&model.join("io.safetensors"));
    write_batch(&batch, &io, &texts(&io));
    let files = ["--batch", words(&batch), "--output", words(&output)];

    succeed(
        &[&["gradients", "--model", words(&model)], &files[..]].concat(),
        b"",
    );

    tensors(&output)
}

/// Softmax does not see what all scores of a query share: such a bias has no gradient but that of
/// rounding.
fn without_gradient(name: &str) -> bool {
    name.ends_with("attention.self.key.bias") || name.ends_with("attnpool.k_proj.bias")
}

#[test]
fn gradients_are_the_references() {
    for model in ["vit_b16", "vit_l14", "vit_l14_336", "vit_h14", "rn50"] {
        let found = gradients(model, |io| {
            let Tensor { shape, values } = &io["texts"];
            let size: usize = shape[1..].iter().product();
            Tensor {
                shape: shape[1..].to_vec(),
                values: values[..size].to_vec(),
            }
        });

        let folder = golden("model").join(model);
        let io = tensors(&folder.join("io.safetensors"));
        let right = tensors(&folder.join("grads.safetensors"));
        assert_eq!(found.len(), right.len() + 3);

        for (name, right) in right.iter().filter(|(name, _)| !without_gradient(name)) {
            assert_close(name, &found[&format!("grad/{name}")], right, 1e-4);
        }

        for name in ["image_features", "text_features"] {
            assert_close(name, &found[name], &io[&format!("train.{name}")], 1e-5);
        }

        let expect = std::fs::read_to_string(folder.join("expect.json")).unwrap();
        let expect: Value = expect.parse().unwrap();
        let right = expect["train_loss"].as_f64().unwrap() as f32;
        assert_close(
            "loss",
            &found["loss"],
            &Tensor {
                shape: vec![],
                values: vec![right],
            },
            1e-5,
        );
    }
}

#[test]
fn padding_is_padding_wherever_it_stands() {
    let right = tensors(&golden("model/vit_b16/padded.safetensors"));
    let found = gradients("vit_b16", |_| right["texts"].clone());
    for (name, right) in right
        .iter()
        .filter(|(name, _)| *name != "texts" && *name != "word_sums")
    {
        assert_close(name, &found[name], right, 1e-4);
    }

    let words = &found["grad/bert.embeddings.word_embeddings.weight"];
    let sums = words
        .values
        .chunks(words.shape[1])
        .map(|row| row.iter().map(|v| v.abs()).sum());

    let sums = Tensor {
        shape: vec![words.shape[0]],
        values: sums.collect(),
    };

    assert_close("words", &sums, &right["word_sums"], 1e-4);
}

#[test]
fn a_batch_that_does_not_fit_the_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [batch, output] = ["batch", "output"].map(|name| folder.path().join(name));
    let model = golden("model/vit_b16");
    let io = tensors(&model.join("io.safetensors"));
    let files = ["--batch", words(&batch), "--output", words(&output)];
    let arguments = [&["gradients", "--model", words(&model)], &files[..]].concat();
    let texts = |rows: usize, tokens: usize, id: f32| {
        write_batch(
            &batch,
            &io,
            &Tensor {
                shape: vec![rows, tokens],
                values: vec![id; rows * tokens],
            },
        );
    };

    refuse(&arguments, b"", 78, "batch");
    std::fs::write(&batch, "no tensors").unwrap();
    refuse(&arguments, b"", 65, "is no safetensors");
    texts(6, 5, 512.0);
    refuse(
        &arguments,
        b"",
        65,
        "texts[0, 0] is 512, and the vocabulary has the ids 0 to 511",
    );

    texts(6, 65, 1.0);
    refuse(
        &arguments,
        b"",
        65,
        "texts have 65 tokens, and the model 1 to 64",
    );

    texts(5, 5, 1.0);
    refuse(&arguments, b"", 65, "expected equally many of both");
    let file = std::fs::read(model.join("io.safetensors")).unwrap();
    std::fs::write(&batch, file).unwrap();
    refuse(&arguments, b"", 65, "`images` is of F16, expected F32");
    assert!(!output.exists());
}
