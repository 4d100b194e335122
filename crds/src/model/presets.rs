//! The published architectures and their towers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ImageTower, ModelConfig, ResnetConfig, TextTower, VitConfig};
use crate::defaults;

/// Published architecture, or `Custom` for a user-defined tower configuration.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Architecture {
    /// RN50 with RBT3: 77 M parameters.
    #[serde(rename = "RN50")]
    Rn50,
    /// ViT-B/32 with RoBERTa-wwm-ext-base: 190 M parameters. No pretrained weights were published.
    #[serde(rename = "ViT-B-32")]
    VitB32,
    /// ViT-B/16 with RoBERTa-wwm-ext-base: 188 M parameters.
    #[serde(rename = "ViT-B-16")]
    VitB16,
    /// ViT-L/14 with RoBERTa-wwm-ext-base: 406 M parameters.
    #[serde(rename = "ViT-L-14")]
    VitL14,
    /// ViT-L/14 at 336 pixels with RoBERTa-wwm-ext-base: 407 M parameters.
    #[serde(rename = "ViT-L-14-336")]
    VitL14At336,
    /// ViT-H/14 with RoBERTa-wwm-ext-large: 958 M parameters.
    #[serde(rename = "ViT-H-14")]
    VitH14,
    /// Tower configuration of `spec.model.custom`.
    Custom,
}

impl Architecture {
    /// All published architectures.
    pub const PUBLISHED: [Self; 6] = [
        Self::Rn50,
        Self::VitB32,
        Self::VitB16,
        Self::VitL14,
        Self::VitL14At336,
        Self::VitH14,
    ];

    /// The published architecture with this tower configuration, ignoring dropout rates.
    pub fn from_model(model: &ModelConfig) -> Option<Self> {
        let TextTower {
            hidden_dropout_percent,
            attention_dropout_percent,
            ..
        } = model.text;

        // Dropout has no parameters: weights fit regardless of it, and users change it for
        // fine-tuning.
        let same = |mut towers: ModelConfig| {
            let text = towers.text;
            towers.text = TextTower {
                hidden_dropout_percent,
                attention_dropout_percent,
                ..text
            };

            towers == *model
        };

        Self::PUBLISHED
            .into_iter()
            .find(|published| published.published_model().is_some_and(same))
    }

    /// The tower configuration of a published architecture; `None` for `Custom`.
    ///
    /// # Examples
    /// ```
    /// use cnclip_crds::model::Architecture;
    ///
    /// let model = Architecture::VitB16.published_model().expect("published");
    /// assert_eq!(model.to_string(), "ViT 12×768 /16 at 224 px, BERT 12×768, 512 features");
    /// ```
    ///
    /// # Source
    /// `cn_clip/clip/model_configs/*.json` of the reference.
    pub fn published_model(self) -> Option<ModelConfig> {
        let model = match self {
            Self::Rn50 => ModelConfig {
                embed_dim: 1024,
                image: resnet_tower(224, [3, 4, 6, 3], 64),
                text: rbt3(),
            },
            Self::VitB32 => ModelConfig {
                embed_dim: 512,
                image: vit_tower(224, vit_base(32)),
                text: roberta_base(),
            },
            Self::VitB16 => ModelConfig {
                embed_dim: 512,
                image: vit_tower(224, vit_base(16)),
                text: roberta_base(),
            },
            Self::VitL14 => ModelConfig {
                embed_dim: 768,
                image: vit_tower(224, vit_large()),
                text: roberta_base(),
            },
            Self::VitL14At336 => ModelConfig {
                embed_dim: 768,
                image: vit_tower(336, vit_large()),
                text: roberta_base(),
            },
            Self::VitH14 => ModelConfig {
                embed_dim: 1024,
                image: vit_tower(224, vit_huge()),
                text: roberta_large(),
            },
            Self::Custom => return None,
        };

        Some(model)
    }
}

fn vit_base(patch_size: i32) -> VitConfig {
    VitConfig {
        layers: 12,
        width: 768,
        patch_size,
        head_width: 64,
    }
}

fn vit_large() -> VitConfig {
    VitConfig {
        layers: 24,
        width: 1024,
        patch_size: 14,
        head_width: 64,
    }
}

fn vit_huge() -> VitConfig {
    VitConfig {
        layers: 32,
        width: 1280,
        patch_size: 14,
        head_width: 80,
    }
}

fn vit_tower(resolution: i32, vit: VitConfig) -> ImageTower {
    ImageTower {
        resolution,
        vit: Some(vit),
        resnet: None,
    }
}

pub(super) fn resnet_tower(resolution: i32, layers: [i32; 4], width: i32) -> ImageTower {
    let resnet = ResnetConfig {
        layers: layers.to_vec(),
        width,
    };

    ImageTower {
        resolution,
        vit: None,
        resnet: Some(resnet),
    }
}

fn rbt3() -> TextTower {
    bert_tower(3, 768, 12)
}

fn roberta_base() -> TextTower {
    bert_tower(12, 768, 12)
}

fn roberta_large() -> TextTower {
    bert_tower(24, 1024, 16)
}

fn bert_tower(layers: i32, width: i32, heads: i32) -> TextTower {
    TextTower {
        vocab_size: defaults::vocab_size(),
        layers,
        width,
        heads,
        intermediate: 4 * width,
        positions: defaults::positions(),
        hidden_dropout_percent: defaults::dropout_percent(),
        attention_dropout_percent: defaults::dropout_percent(),
    }
}
