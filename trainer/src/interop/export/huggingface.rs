//! A model folder for `transformers`: weights, configurations and vocabulary.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use bytes::Bytes;
use cnclip_crds::model::{ImageTower, ModelConfig, TextTower, VitConfig};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::interop::atomic_file::{self, F32Tensor};
use crate::interop::resolved_model::{ResolvedModel, VOCABULARY_FILE};
use crate::interop::tokenize;
use cnclip_compute::params::{Params, Segment};
use cnclip_data::image::preprocess::{CHANNEL_MEANS, CHANNEL_STDS};

const WEIGHTS_FILE: &str = "model.safetensors";
/// Of a text tower and of a vision transformer.
const LAYER_NORM_EPSILONS: (f64, f64) = (1e-12, 1e-5);
/// The number that `transformers` gives bicubic.
const PIL_BICUBIC: u32 = 3;

/// The files beside the weights.
pub(super) struct HuggingFaceFiles {
    files: Vec<(&'static str, Bytes)>,
}

impl HuggingFaceFiles {
    /// # Errors
    /// If the model has a ResNet, or its vocabulary cannot be read.
    pub(super) fn describe_model(model: &ResolvedModel, vocabulary: Option<&Path>) -> Result<Self> {
        let ModelConfig { image, text, .. } = &model.config;
        let Some(vit) = &image.vit else {
            return Err(Error::Config(
                "transformers has no Chinese-CLIP with a ResNet: its ChineseCLIPModel is a vision \
                 transformer. Export this model with --format ofa."
                    .into(),
            ));
        };

        let (vocabulary, uri) = model.read_vocabulary(vocabulary)?;
        // Parsed to validate it: `transformers` would fail only at the first text with a large id.
        tokenize::tokenizer_from_bytes(&vocabulary, &uri, text.vocab_size)?;
        let json = |value: Value| Bytes::from(format!("{value:#}\n"));
        let files = vec![
            ("config.json", json(model_config(&model.config, vit))),
            ("preprocessor_config.json", json(preprocessor_config(image))),
            (
                "tokenizer_config.json",
                json(tokenizer_config(model.context_length)),
            ),
            ("special_tokens_map.json", json(special_tokens())),
            (VOCABULARY_FILE, vocabulary),
        ];

        Ok(Self { files })
    }
}

/// Writes the weights, and then what describes them.
pub(super) fn write_folder(
    params: &Params,
    description: &HuggingFaceFiles,
    to: &Path,
) -> Result<Vec<String>> {
    let tensors = params
        .named_tensors()
        .flat_map(|(segment, values)| convert_tensor(segment, values.expect_host()));

    atomic_file::write_safetensors(&to.join(WEIGHTS_FILE), tensors)?;
    for (name, bytes) in &description.files {
        let path = to.join(name);
        atomic_file::write_atomically(&path, |writer| {
            writer
                .write_all(bytes)
                .map_err(Error::io_context("write", &path))
        })?;
    }

    let names = description.files.iter().map(|(name, _)| *name);
    Ok([WEIGHTS_FILE]
        .into_iter()
        .chain(names)
        .map(str::to_owned)
        .collect())
}

/// Fragments of the reference's names, and Hugging Face's, in the order of replacement.
const NAME_REPLACEMENTS: [(&str, &str); 11] = [
    (
        "visual.transformer.resblocks.",
        "vision_model.encoder.layers.",
    ),
    (
        "visual.class_embedding",
        "vision_model.embeddings.class_embedding",
    ),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    (
        "visual.positional_embedding",
        "vision_model.embeddings.position_embedding.weight",
    ),
    // Misspelled in `transformers` too.
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    (".attn.out_proj.", ".self_attn.out_proj."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
];

/// Converts a tensor: query, key and value become separate tensors, projections are transposed.
fn convert_tensor<'a>(segment: &Segment, values: &'a [f32]) -> Vec<(String, F32Tensor<'a>)> {
    let name = segment.name.as_str();
    let shape = segment.shape.clone();
    let whole = |name: String| {
        vec![(
            name,
            F32Tensor {
                shape: shape.clone(),
                values: Cow::Borrowed(values),
            },
        )]
    };

    match name {
        // The reference multiplies features by this matrix; `nn.Linear` stores the transpose.
        "text_projection" => vec![(
            "text_projection.weight".into(),
            transpose_matrix(&shape, values),
        )],
        "visual.proj" => vec![(
            "visual_projection.weight".into(),
            transpose_matrix(&shape, values),
        )],
        _ if name.starts_with("bert.") => whole(name.replacen("bert.", "text_model.", 1)),
        _ => {
            let name = NAME_REPLACEMENTS
                .iter()
                .fold(name.to_owned(), |name, (ours, theirs)| {
                    name.replace(ours, theirs)
                });

            match name.split_once(".attn.in_proj_") {
                Some((layer, kind)) => split_qkv(layer, kind, &shape, values),
                None => whole(name),
            }
        }
    }
}

fn split_qkv<'a>(
    layer: &str,
    kind: &str,
    shape: &[usize],
    values: &'a [f32],
) -> Vec<(String, F32Tensor<'a>)> {
    // PyTorch stacks query, key and value along the first dimension: each is a contiguous third.
    let third = [&[shape[0] / 3], &shape[1..]].concat();
    let parts = ["q", "k", "v"]
        .into_iter()
        .zip(values.chunks(values.len() / 3));

    let part = |(which, values)| {
        let name = format!("{layer}.self_attn.{which}_proj.{kind}");
        (
            name,
            F32Tensor {
                shape: third.clone(),
                values: Cow::Borrowed(values),
            },
        )
    };

    parts.map(part).collect()
}

fn transpose_matrix(shape: &[usize], values: &[f32]) -> F32Tensor<'static> {
    let rows = shape[0];
    let columns = shape[1];
    let value = |at: usize| values[at % rows * columns + at / rows];
    F32Tensor {
        shape: vec![columns, rows],
        values: (0..rows * columns).map(value).collect(),
    }
}

fn model_config(model: &ModelConfig, vit: &VitConfig) -> Value {
    let ModelConfig {
        embed_dim,
        image,
        text,
    } = model;

    json!({
        "architectures": ["ChineseCLIPModel"],
        "model_type": "chinese_clip",
        "dtype": "float32",
        "projection_dim": embed_dim,
        "logit_scale_init_value": 2.6592,
        "text_config": text_config(text),
        "vision_config": {
            "model_type": "chinese_clip_vision_model",
            "hidden_act": "quick_gelu",
            "hidden_size": vit.width,
            "image_size": image.resolution,
            "intermediate_size": 4 * vit.width,
            "layer_norm_eps": LAYER_NORM_EPSILONS.1,
            "num_attention_heads": vit.width / vit.head_width,
            "num_channels": 3,
            "num_hidden_layers": vit.layers,
            "patch_size": vit.patch_size,
            "projection_dim": embed_dim,
            "attention_dropout": 0.0,
        },
    })
}

fn text_config(text: &TextTower) -> Value {
    let share = |percent: i32| f64::from(percent) / 100.0;
    json!({
        "model_type": "chinese_clip_text_model",
        "hidden_act": "gelu",
        "hidden_size": text.width,
        "intermediate_size": text.intermediate,
        "layer_norm_eps": LAYER_NORM_EPSILONS.0,
        "max_position_embeddings": text.positions,
        "num_attention_heads": text.heads,
        "num_hidden_layers": text.layers,
        "type_vocab_size": 2,
        "vocab_size": text.vocab_size,
        "pad_token_id": 0,
        "hidden_dropout_prob": share(text.hidden_dropout_percent),
        "attention_probs_dropout_prob": share(text.attention_dropout_percent),
    })
}

fn preprocessor_config(image: &ImageTower) -> Value {
    json!({
        "image_processor_type": "ChineseCLIPImageProcessor",
        "do_resize": true,
        "size": {"height": image.resolution, "width": image.resolution},
        "resample": PIL_BICUBIC,
        "do_center_crop": false,
        "do_convert_rgb": true,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": CHANNEL_MEANS,
        "image_std": CHANNEL_STDS,
    })
}

fn tokenizer_config(context_length: usize) -> Value {
    let mut config = json!({
        "tokenizer_class": "BertTokenizer",
        "processor_class": "ChineseCLIPProcessor",
        "do_lower_case": true,
        "strip_accents": null,
        "tokenize_chinese_chars": true,
        "model_max_length": context_length,
    });

    if let (Some(config), Value::Object(tokens)) = (config.as_object_mut(), special_tokens()) {
        config.extend(tokens);
    }

    config
}

fn special_tokens() -> Value {
    json!({
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    })
}
