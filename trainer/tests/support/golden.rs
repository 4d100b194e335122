//! Golden values of the reference, as they lie in `tests/golden/model/<name>`.

use std::path::PathBuf;

use cnclip::weights::{Part, Tensors, Weights, load};
use cnclip_compute::ops::patchify::Pixels;
use cnclip_compute::params::Params;
use cnclip_crds::model::{ImageTower, ModelConfig, Resnet, TextTower, Vit};
use cnclip_data::store::Store;
use cnclip_nn::model::Texts;
use cnclip_nn::model::clip::{Batch, Capacity, Clip};
use serde_json::Value;

/// A way to declare a model.
pub(crate) type Declare = fn(&ModelConfig, Capacity) -> (Clip, Params);

/// One model's files.
pub(crate) struct Golden {
    pub(crate) config: ModelConfig,
    pub(crate) weights: Weights,
    pub(crate) io: Tensors,
    pub(crate) gradients: Tensors,
    pub(crate) expect: Value,
}

/// Captions of true length, and pictures.
pub(crate) struct Pairs {
    pub(crate) pixels: Vec<f32>,
    pub(crate) ids: Vec<u32>,
    pub(crate) offsets: Vec<usize>,
}

impl Pairs {
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch {
            pixels: Pixels::Normalized(&self.pixels),
            texts: self.texts(),
        }
    }

    /// Pairs `from..to`.
    pub(crate) fn part(&self, from: usize, to: usize) -> Self {
        let picture = self.pixels.len() / self.texts().count();
        let first = self.offsets[from];
        let last = self.offsets[to];
        Self {
            pixels: self.pixels[from * picture..to * picture].to_vec(),
            ids: self.ids[first..last].to_vec(),
            offsets: self.offsets[from..=to]
                .iter()
                .map(|offset| offset - first)
                .collect(),
        }
    }

    pub(crate) fn texts(&self) -> Texts<'_> {
        Texts {
            ids: &self.ids,
            offsets: &self.offsets,
        }
    }
}

impl Golden {
    pub(crate) fn read(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/model")
            .join(name);

        let json =
            |file| serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap();
        let store = Store::open(folder.to_str().unwrap()).unwrap();
        let weights = |file| Weights::open(&store, file).unwrap();
        let tensors = |file| weights(file).to_tensors().unwrap();

        Self {
            config: config(&json("config.json")),
            weights: weights("model.safetensors"),
            io: tensors("io.safetensors"),
            gradients: tensors("grads.safetensors"),
            expect: json("expect.json"),
        }
    }

    /// The model with the golden weights.
    pub(crate) fn model(&self) -> (Clip, Params) {
        self.declared(Clip::new)
    }

    /// The same, declared in another way.
    pub(crate) fn declared(&self, declare: Declare) -> (Clip, Params) {
        let (clip, mut params) = declare(
            &self.config,
            Capacity {
                batch: 6,
                context: 20,
            },
        );

        load(&mut params, &self.weights, Part::All).unwrap();
        (clip, params)
    }

    /// One of the three batches.
    pub(crate) fn pairs(&self, batch: usize) -> Pairs {
        let images = &self.io["images"];
        let texts = &self.io["texts"];
        let size: usize = images.shape[1..].iter().product();
        let context = texts.shape[2];
        let rows = &texts.values[batch * texts.shape[1] * context..][..texts.shape[1] * context];
        let mut ids = Vec::new();
        let mut offsets = vec![0];

        for row in rows.chunks(context) {
            ids.extend(row.iter().filter(|&&id| id != 0.0).map(|&id| id as u32));
            offsets.push(ids.len());
        }

        Pairs {
            pixels: images.values[batch * size..][..size].to_vec(),
            ids,
            offsets,
        }
    }
}

/// The reference's arguments in our words.
fn config(json: &Value) -> ModelConfig {
    let int = |name: &str| json[name].as_i64().unwrap() as i32;
    let image = match &json["vision_layers"] {
        Value::Array(layers) => ImageTower {
            resolution: int("image_resolution"),
            vit: None,
            resnet: Some(Resnet {
                layers: layers
                    .iter()
                    .map(|layer| layer.as_i64().unwrap() as i32)
                    .collect(),
                width: int("vision_width"),
            }),
        },
        _ => ImageTower {
            resolution: int("image_resolution"),
            vit: Some(Vit {
                layers: int("vision_layers"),
                width: int("vision_width"),
                patch_size: int("vision_patch_size"),
                head_width: int("vision_head_width"),
            }),
            resnet: None,
        },
    };

    let text = TextTower {
        vocab_size: int("vocab_size"),
        layers: int("text_num_hidden_layers"),
        width: int("text_hidden_size"),
        heads: int("text_num_attention_heads"),
        intermediate: int("text_intermediate_size"),
        positions: int("text_max_position_embeddings"),
        hidden_dropout_percent: 0,
        attention_dropout_percent: 0,
    };

    ModelConfig {
        embed_dim: int("embed_dim"),
        image,
        text,
    }
}

/// Asserts that two arrays agree to an error relative to the largest value.
pub(crate) fn assert_close(name: &str, found: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(found.len(), right.len(), "{name}");
    let largest = right.iter().fold(0f32, |most, value| most.max(value.abs()));
    for (at, (found, right)) in found.iter().zip(right).enumerate() {
        let error = (found - right).abs();
        assert!(
            error <= tolerance * largest.max(1e-6),
            "{name}[{at}]: {found}, expected {right}"
        );
    }
}

/// Softmax does not see what all scores of a query share, so a key's bias has no gradient but that
/// of rounding, which AdamW then makes steps of.
pub(crate) fn without_gradient(name: &str) -> bool {
    name.ends_with("attention.self.key.bias") || name == "visual.attnpool.k_proj.bias"
}
