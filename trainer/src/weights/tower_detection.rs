//! The architecture of weights, detected from names and shapes, and from a `config.json` where shapes are
//! ambiguous. Reads no values.

use std::collections::BTreeSet;
use std::fmt;

use cnclip_crds::model::{ImageTower, ModelConfig, ResnetConfig, TextTower, VitConfig};
use serde_json::Value;

use super::Weights;

/// What a file holds of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DetectedTowers {
    /// The image tower, if it is there.
    pub image: Option<ImageTower>,
    /// The text tower, if it is there.
    pub text: Option<TextTower>,
    /// Length of the features, if a projection is there.
    pub embed_dim: Option<i32>,
}

impl DetectedTowers {
    /// The towers of these weights. `config` is the `config.json` in their folder: Hugging Face's, or the
    /// arguments of the reference's class; it decides about heads and dropout alone.
    ///
    /// # Source
    /// Without a configuration, as in the published models: heads of 64, of 80 in an image tower of width
    /// 1280; dropout of 10 %.
    pub fn from_weights(weights: &Weights, config: Option<&Value>) -> Self {
        let file = TowerDetector { weights, config };
        let image = file.detect_vit().or_else(|| file.detect_resnet());
        let features = ["visual.proj", "text_projection"];
        let features = features.iter().find_map(|name| file.axis_len(name, 1));
        // A ResNet has no `visual.proj`: its attention pooling ends with the projection.
        let pooled = || file.axis_len("visual.attnpool.c_proj.weight", 0);

        Self {
            image,
            text: file.detect_bert(),
            embed_dim: features.or_else(pooled),
        }
    }

    /// The whole model, if all of it is there.
    pub fn model_config(&self) -> Option<ModelConfig> {
        let image = self.image.clone()?;
        let text = self.text.clone()?;
        Some(ModelConfig {
            embed_dim: self.embed_dim?,
            image,
            text,
        })
    }
}

impl fmt::Display for DetectedTowers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = self.image.as_ref().map(ToString::to_string);
        let text = self.text.as_ref().map(ToString::to_string);
        let features = self
            .embed_dim
            .map(|features| format!("{features} features"));
        let parts: Vec<String> = [image, text, features].into_iter().flatten().collect();
        f.write_str(if parts.is_empty() {
            "no tower that we know"
        } else {
            ""
        })?;

        f.write_str(&parts.join(", "))
    }
}

struct TowerDetector<'a> {
    weights: &'a Weights,
    config: Option<&'a Value>,
}

impl TowerDetector<'_> {
    fn axis_len(&self, name: &str, axis: usize) -> Option<i32> {
        i32::try_from(*self.weights.get(name)?.shape().get(axis)?).ok()
    }

    /// How many numbers follow each other behind a prefix: layers, blocks.
    fn count_layers(&self, prefix: &str) -> i32 {
        let rest = self
            .weights
            .tensor_names()
            .filter_map(|name| name.strip_prefix(prefix));

        let numbers = rest.filter_map(|rest| rest.split('.').next()?.parse::<u32>().ok());
        numbers.collect::<BTreeSet<_>>().len() as i32
    }

    /// The first of these places in the configuration that holds a number.
    fn config_number(&self, places: &[&str]) -> Option<f64> {
        let config = self.config?;
        places
            .iter()
            .find_map(|place| config.pointer(place)?.as_f64())
    }

    fn detect_vit(&self) -> Option<ImageTower> {
        let width = self.axis_len(CONV1_WEIGHT, 0)?;
        let patch = self.axis_len(CONV1_WEIGHT, 2)?;
        let grid = grid_side(self.axis_len("visual.positional_embedding", 0)?)?;
        let heads = self
            .config_number(&["/vision_config/num_attention_heads"])
            .map(|n| n as i32);

        // The fused query, key and value have the same shape for any number of heads.
        let head_width = self
            .config_number(&["/vision_head_width"])
            .map(|n| n as i32)
            .or_else(|| heads.filter(|&heads| heads > 0).map(|heads| width / heads))
            .unwrap_or(if width == 1280 { 80 } else { 64 });

        let layers = self.count_layers("visual.transformer.resblocks.");
        let vit = VitConfig {
            layers,
            width,
            patch_size: patch,
            head_width,
        };

        Some(ImageTower {
            resolution: patch.checked_mul(grid)?,
            vit: Some(vit),
            resnet: None,
        })
    }

    fn detect_resnet(&self) -> Option<ImageTower> {
        // The stem's first convolution has half the tower's width.
        let width = self.axis_len(CONV1_WEIGHT, 0)?.checked_mul(2)?;
        let grid = grid_side(self.axis_len("visual.attnpool.positional_embedding", 0)?)?;
        let layers = (1..=4)
            .map(|layer| self.count_layers(&format!("visual.layer{layer}.")))
            .collect();

        let resnet = ResnetConfig { layers, width };
        Some(ImageTower {
            // The tower halves the resolution five times.
            resolution: grid.checked_mul(32)?,
            vit: None,
            resnet: Some(resnet),
        })
    }

    fn detect_bert(&self) -> Option<TextTower> {
        const WORDS: &str = "bert.embeddings.word_embeddings.weight";
        let percent = |name: &str| {
            let places = [
                format!("/text_config/{name}"),
                format!("/text_{name}"),
                format!("/{name}"),
            ];

            // Configurations say 0.1; the model configuration counts in whole percent.
            self.config_number(&places.each_ref().map(String::as_str))
                .map(|share| (share * 100.0).round() as i32)
        };

        let heads = [
            "/text_config/num_attention_heads",
            "/text_num_attention_heads",
            "/num_attention_heads",
        ];

        let width = self.axis_len(WORDS, 1)?;
        Some(TextTower {
            vocab_size: self.axis_len(WORDS, 0)?,
            layers: self.count_layers("bert.encoder.layer."),
            width,
            heads: self
                .config_number(&heads)
                .map_or(width / 64, |heads| heads as i32),
            intermediate: self.axis_len("bert.encoder.layer.0.intermediate.dense.weight", 0)?,
            positions: self.axis_len("bert.embeddings.position_embeddings.weight", 0)?,
            hidden_dropout_percent: percent("hidden_dropout_prob").unwrap_or(10),
            attention_dropout_percent: percent("attention_probs_dropout_prob").unwrap_or(10),
        })
    }
}

const CONV1_WEIGHT: &str = "visual.conv1.weight";

/// The side of the grid behind a class token.
fn grid_side(tokens: i32) -> Option<i32> {
    let patches = tokens.checked_sub(1)?;
    let side = patches.checked_isqrt()?;
    (side > 0 && side * side == patches).then_some(side)
}
