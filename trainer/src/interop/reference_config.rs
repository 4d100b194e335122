//! The reference's own description of a model, `config.json`: the arguments of its `CLIP` class.

use cnclip_crds::model::{ImageTower, ModelConfig, ResnetConfig, TextTower, VitConfig};
use serde::Deserialize;

use crate::error::{Error, Result};
use cnclip_data::json::parse_json;
use cnclip_data::store::Store;

/// The file.
pub const CONFIG_FILE: &str = "config.json";

// Unknown keys are refused: one could change the architecture in a way that is not supported.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceArguments {
    embed_dim: i32,
    image_resolution: i32,
    vision_layers: VisionLayers,
    vision_width: i32,
    vision_patch_size: Option<i32>,
    #[serde(default = "head_width")]
    vision_head_width: i32,
    vocab_size: i32,
    text_attention_probs_dropout_prob: f64,
    // Deserialized only so that any other activation is an error.
    #[serde(rename = "text_hidden_act")]
    _hidden_act: TextActivation,
    text_hidden_dropout_prob: f64,
    // Without effect on given weights, but named, because unknown keys are refused.
    #[serde(rename = "text_initializer_range")]
    _initializer_range: f64,
    text_max_position_embeddings: i32,
    #[serde(rename = "text_type_vocab_size")]
    _type_vocab_size: i32,
    text_hidden_size: i32,
    text_num_attention_heads: i32,
    text_num_hidden_layers: i32,
    text_intermediate_size: i32,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "vision_layers is a number, four numbers, or these as a string"
)]
enum VisionLayers {
    Vit(i32),
    Resnet(Vec<i32>),
    /// As the reference writes its ResNet's: `"[3,4,6,3]"`.
    Quoted(String),
}

/// The only activation of the published text towers.
#[derive(Deserialize)]
enum TextActivation {
    #[serde(rename = "gelu")]
    Gelu,
}

fn head_width() -> i32 {
    64
}

/// The towers that `config.json` in a folder describes.
///
/// # Errors
/// If there is none, it has other keys, or the towers cannot be built.
pub fn read_model_config(folder: &Store) -> Result<ModelConfig> {
    let uri = folder.object_uri(CONFIG_FILE);
    let towers = parse_arguments(&folder.get(CONFIG_FILE)?).and_then(|model| {
        match model.validation_error() {
            Some(problem) => Err(problem),
            None => Ok(model),
        }
    });

    towers.map_err(|error| {
        Error::Config(format!(
            "{uri} does not describe a model: {error}. Expected the arguments of the reference's CLIP class."
        ))
    })
}

fn parse_arguments(bytes: &[u8]) -> Result<ModelConfig, String> {
    let a: ReferenceArguments = parse_json(bytes).map_err(|error| error.to_string())?;
    // Rounded: 0.29 * 100.0 is 28.999…, which the cast alone would truncate.
    let percent = |share: f64| (share * 100.0).round() as i32;
    let (vit, resnet) = match unquote_layers(a.vision_layers)? {
        VisionLayers::Vit(layers) => {
            let patch_size = a.vision_patch_size.ok_or("vision_patch_size is missing")?;
            let width = a.vision_width;
            let head_width = a.vision_head_width;
            (
                Some(VitConfig {
                    layers,
                    width,
                    patch_size,
                    head_width,
                }),
                None,
            )
        }
        VisionLayers::Resnet(layers) => (
            None,
            Some(ResnetConfig {
                layers,
                width: a.vision_width,
            }),
        ),
        VisionLayers::Quoted(text) => return Err(format!("vision_layers is {text:?}")),
    };

    Ok(ModelConfig {
        embed_dim: a.embed_dim,
        image: ImageTower {
            resolution: a.image_resolution,
            vit,
            resnet,
        },
        text: TextTower {
            vocab_size: a.vocab_size,
            layers: a.text_num_hidden_layers,
            width: a.text_hidden_size,
            heads: a.text_num_attention_heads,
            intermediate: a.text_intermediate_size,
            positions: a.text_max_position_embeddings,
            hidden_dropout_percent: percent(a.text_hidden_dropout_prob),
            attention_dropout_percent: percent(a.text_attention_probs_dropout_prob),
        },
    })
}

fn unquote_layers(layers: VisionLayers) -> Result<VisionLayers, String> {
    match layers {
        VisionLayers::Quoted(text) => {
            serde_json::from_str(&text).map_err(|error| format!("vision_layers: {error}"))
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use cnclip_crds::model::Architecture;
    use serde_json::{Value, json};

    use super::*;

    fn arguments(vision_layers: Value, others: Value) -> Value {
        let mut arguments = json!({
            "embed_dim": 1024, "image_resolution": 224, "vision_layers": vision_layers,
            "vision_width": 64, "vision_patch_size": null, "vocab_size": 21128,
            "text_attention_probs_dropout_prob": 0.1, "text_hidden_act": "gelu",
            "text_hidden_dropout_prob": 0.1, "text_initializer_range": 0.02,
            "text_max_position_embeddings": 512, "text_type_vocab_size": 2,
            "text_hidden_size": 768, "text_num_attention_heads": 12,
            "text_num_hidden_layers": 3, "text_intermediate_size": 3072
        });

        let more = others.as_object().unwrap().clone();
        arguments.as_object_mut().unwrap().extend(more);
        arguments
    }

    fn read(arguments: &Value) -> Result<ModelConfig> {
        let store = Store::in_memory();
        // With a byte order mark, as editors on Windows write it.
        let text = format!("\u{FEFF}{arguments}");
        store.put(CONFIG_FILE, text.into()).unwrap();
        read_model_config(&store)
    }

    #[test]
    fn the_references_arguments_are_the_published_towers() {
        let rn50 = Architecture::Rn50.published_model().unwrap();
        for layers in [json!([3, 4, 6, 3]), json!("[3,4,6,3]")] {
            assert_eq!(read(&arguments(layers, json!({}))).unwrap(), rn50);
        }

        let vit = json!({
            "embed_dim": 512, "vision_width": 768, "vision_patch_size": 16, "text_num_hidden_layers": 12
        });

        let vit_b16 = Architecture::VitB16.published_model().unwrap();
        assert_eq!(read(&arguments(json!(12), vit)).unwrap(), vit_b16);
    }

    #[test]
    fn what_is_no_such_model_is_refused_in_one_line() {
        let table = [
            (json!("[3,4"), json!({}), "vision_layers: EOF"),
            (json!(12), json!({}), "vision_patch_size is missing"),
            (
                json!({}),
                json!({}),
                "vision_layers is a number, four numbers",
            ),
            (
                json!([3, 4, 6, 3]),
                json!({"text_hidden_act": "relu"}),
                "unknown variant `relu`",
            ),
            (
                json!([3, 4, 6, 3]),
                json!({"use_bn": true}),
                "unknown field `use_bn`",
            ),
            (
                json!([3, 4, 6, 3]),
                json!({"image_resolution": 48}),
                "five halvings",
            ),
        ];

        for (layers, others, expected) in table {
            let error = read(&arguments(layers, others)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.exit_code().exit_code(), 78);
        }
    }
}
