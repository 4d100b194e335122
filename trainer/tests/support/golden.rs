//! Golden values of the reference, as they lie in `tests/golden/model/<name>`.

use std::path::PathBuf;

use cnclip::weights::{ModelPart, TensorMap, Weights, load_weights};
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::Params;
use cnclip_crds::model::{ImageTower, ModelConfig, ResnetConfig, TextTower, VitConfig};
use cnclip_data::store::Store;
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ClipBatch};
use serde_json::Value;

/// A way to declare a model.
pub(crate) type BuildClip = fn(&ModelConfig, BatchCapacity) -> (Clip, Params);

/// One model's files.
pub(crate) struct GoldenModel {
    pub(crate) config: ModelConfig,
    pub(crate) weights: Weights,
    pub(crate) io: TensorMap,
    pub(crate) gradients: TensorMap,
    pub(crate) expect: Value,
}

/// Captions of true length, and pictures.
pub(crate) struct GoldenBatch {
    pub(crate) pixels: Vec<f32>,
    pub(crate) ids: Vec<u32>,
    pub(crate) offsets: Vec<usize>,
}

impl GoldenBatch {
    pub(crate) fn batch(&self) -> ClipBatch<'_> {
        ClipBatch {
            pixels: PixelBatch::Normalized(&self.pixels),
            texts: self.texts(),
        }
    }

    /// Pairs `from..to`.
    pub(crate) fn slice_samples(&self, from: usize, to: usize) -> Self {
        let picture = self.pixels.len() / self.texts().text_count();
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

    pub(crate) fn texts(&self) -> PackedTexts<'_> {
        PackedTexts {
            ids: &self.ids,
            offsets: &self.offsets,
        }
    }
}

impl GoldenModel {
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
        self.build_with(Clip::new)
    }

    /// The same, declared in another way.
    pub(crate) fn build_with(&self, declare: BuildClip) -> (Clip, Params) {
        let (clip, mut params) = declare(
            &self.config,
            BatchCapacity {
                batch: 6,
                context: 20,
            },
        );

        load_weights(&mut params, &self.weights, ModelPart::All).unwrap();
        (clip, params)
    }

    /// One of the three batches.
    pub(crate) fn load_batch(&self, batch: usize) -> GoldenBatch {
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

        GoldenBatch {
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
            resnet: Some(ResnetConfig {
                layers: layers
                    .iter()
                    .map(|layer| layer.as_i64().unwrap() as i32)
                    .collect(),
                width: int("vision_width"),
            }),
        },
        _ => ImageTower {
            resolution: int("image_resolution"),
            vit: Some(VitConfig {
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
