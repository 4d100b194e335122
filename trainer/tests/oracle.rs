//! The oracle, candle's autograd over the whole model, against the reference's own numbers: so that
//! whatever is compared with the oracle is compared with the reference.
#![cfg(test)]

#[path = "support/golden.rs"]
#[allow(dead_code, reason = "shared with the tests of the reference's numbers")]
mod golden;

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use cnclip::weights::TensorMap;
use cnclip_oracle::{ChineseClip, gradients_by_name};
use golden::{GoldenBatch, GoldenModel, assert_close, without_gradient};

const MODELS: [&str; 5] = ["vit_b16", "vit_l14", "vit_l14_336", "vit_h14", "rn50"];

/// The oracle with the golden weights, and its parameters.
fn oracle(golden: &GoldenModel) -> (ChineseClip, VarMap) {
    let mut parameters = VarMap::new();
    let vb = VarBuilder::from_varmap(&parameters, DType::F32, &Device::Cpu);
    let model = ChineseClip::new(&golden.config, vb).unwrap();
    let weights: TensorMap = golden.weights.to_tensors().unwrap();
    let names: Vec<String> = parameters.data().lock().unwrap().keys().cloned().collect();

    for name in names {
        let stored = &weights[&name];
        let value = Tensor::from_slice(&stored.values, &stored.shape[..], &Device::Cpu).unwrap();
        parameters.set_one(&name, value).unwrap();
    }

    (model, parameters)
}

fn pixels(golden: &GoldenModel, batch: &GoldenBatch) -> Tensor {
    let side = golden.config.image.resolution as usize;
    let count = batch.texts().text_count();
    Tensor::from_slice(&batch.pixels, (count, 3, side, side), &Device::Cpu).unwrap()
}

/// The texts as rows of one length, padded by 0.
fn padded_ids(batch: &GoldenBatch) -> Tensor {
    let lengths = batch.offsets.windows(2).map(|ends| ends[1] - ends[0]);
    let context = lengths.max().unwrap();
    let rows = batch.offsets.windows(2).flat_map(|ends| {
        let text = &batch.ids[ends[0]..ends[1]];
        let padding = std::iter::repeat_n(0, context - text.len());
        text.iter().copied().chain(padding)
    });

    let ids: Vec<u32> = rows.collect();
    Tensor::from_vec(ids, ((), context), &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn features_and_logits_in_evaluation_are_the_references() {
    for name in MODELS {
        let golden = GoldenModel::read(name);
        let (model, _) = oracle(&golden);
        let batch = golden.load_batch(0);
        let images = model.encode_image(&pixels(&golden, &batch)).unwrap();
        let texts = model.encode_text(&padded_ids(&batch)).unwrap();
        let logits = model.logits_per_image(&images, &texts).unwrap();

        for (key, found) in [
            ("eval.image_features", images),
            ("eval.text_features", texts),
            ("eval.logits_per_image", logits),
        ] {
            assert_close(name, &flat(&found), &golden.io[key].values, 1e-5);
        }
    }
}

#[test]
fn loss_features_and_every_gradient_are_the_references() {
    for name in MODELS {
        let golden = GoldenModel::read(name);
        let (model, parameters) = oracle(&golden);
        let batch = golden.load_batch(0);
        let pixels = pixels(&golden, &batch);
        let output = model.forward_train(&pixels, &padded_ids(&batch)).unwrap();
        let loss = f64::from(output.loss.to_scalar::<f32>().unwrap());
        let expected = golden.expect["train_loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-5, "{name}: {loss}");

        for (key, found) in [
            ("train.image_features", &output.image_features),
            ("train.text_features", &output.text_features),
        ] {
            assert_close(name, &flat(found), &golden.io[key].values, 1e-5);
        }

        let gradients = gradients_by_name(&parameters, &output.loss).unwrap();
        assert_eq!(gradients.len(), golden.gradients.len(), "{name}");
        for (parameter, found) in gradients {
            if !without_gradient(&parameter) {
                let expected = &golden.gradients[&parameter].values;
                assert_close(&parameter, &flat(&found), expected, 1e-4);
            }
        }
    }
}

#[test]
fn padding_is_padding_wherever_it_stands() {
    let golden = GoldenModel::read("vit_b16");
    let (model, _) = oracle(&golden);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/model/vit_b16");
    let bytes = std::fs::read(format!("{folder}/padded.safetensors")).unwrap();
    let padded = cnclip::weights::read_safetensors(&bytes).unwrap();
    let texts = &padded["texts"];
    let ids: Vec<u32> = texts.values.iter().map(|&id| id as u32).collect();
    let ids = Tensor::from_vec(ids, &texts.shape[..], &Device::Cpu).unwrap();

    let found = model.encode_text(&ids).unwrap();
    assert_close(
        "text_features",
        &flat(&found),
        &padded["text_features"].values,
        1e-4,
    );
}
