//! Model configuration: image and text tower.

mod presets;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    defaults,
    field_problem::{Bounds, FieldProblem},
};
pub use presets::Architecture;

/// Configuration of the image and text towers, with all dimensions resolved.
///
/// # Source
/// Field for field the reference's model configuration (`embed_dim`, `vision_*`, `text_*`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelConfig {
    /// Dimension of the shared embedding space.
    #[schemars(range(min = 1, max = 4096))]
    pub embed_dim: i32,
    /// Image tower.
    pub image: ImageTower,
    /// Text tower.
    pub text: TextTower,
}

impl ModelConfig {
    /// The first violated constraint, if any.
    pub fn validation_error(&self) -> Option<String> {
        self.problems().first().map(ToString::to_string)
    }

    /// Every violated constraint.
    ///
    /// # Examples
    /// ```
    /// use cnclip_crds::model::Architecture;
    ///
    /// let mut model = Architecture::VitB16.published_model().expect("published");
    /// assert_eq!(model.problems(), []);
    ///
    /// model.image.resolution = 225;
    /// assert_eq!(
    ///     model.problems()[0].to_string(),
    ///     "image.resolution is 225; it must be a multiple of image.vit.patchSize, 16"
    /// );
    /// ```
    pub fn problems(&self) -> Vec<FieldProblem> {
        // The CRD schema has the same limits, but trainer configurations are also written by hand, and hubs have
        // configurations of anybody. A number of layers alone could take all memory.
        let bounds = [
            Bounds::within("embedDim", self.embed_dim, 1..=4096),
            Bounds::within("image.resolution", self.image.resolution, 1..=1024),
        ];

        let mut problems = bounds_problems(&bounds);
        problems.extend(self.text.bounds_problems());
        problems.extend(self.image.problems());
        problems.extend(self.text.dropout_problem());
        problems.extend(self.text.heads_problem());
        problems
    }
}

/// Summary such as `ViT 12×768 /16 at 224 px, BERT 12×768, 512 features`.
impl std::fmt::Display for ModelConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}, {}, {} features",
            self.image, self.text, self.embed_dim
        )
    }
}

/// Summary such as `ViT 12×768 /16 at 224 px`.
impl std::fmt::Display for ImageTower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(VitConfig {
            layers,
            width,
            patch_size,
            ..
        }) = &self.vit
        {
            write!(f, "ViT {layers}×{width} /{patch_size}")?;
        }

        if let Some(ResnetConfig { layers, width }) = &self.resnet {
            write!(f, "ResNet {layers:?}×{width}")?;
        }

        write!(f, " at {} px", self.resolution)
    }
}

/// Summary such as `BERT 12×768`.
impl std::fmt::Display for TextTower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BERT {}×{}", self.layers, self.width)
    }
}

fn bounds_problems(bounds: &[Bounds]) -> Vec<FieldProblem> {
    bounds.iter().filter_map(Bounds::problem).collect()
}

/// A field that must be a multiple of `divisor`, which the message calls `divisor_name`. No problem with a
/// divisor below 1: that is a problem of the divisor's own field.
fn multiple_problem(
    path: &str,
    value: i32,
    divisor_name: &str,
    divisor: i32,
) -> Option<FieldProblem> {
    // A remainder by 0 panics; by -1, that of `i32::MIN` overflows.
    (divisor >= 1 && value % divisor != 0).then(|| {
        let message = format!("is {value}; it must be a multiple of {divisor_name}, {divisor}");
        FieldProblem::new(path, message)
    })
}

/// Image tower: exactly one of `vit` and `resnet` must be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageTower {
    /// Input resolution: side length of the square image, in pixels.
    #[schemars(range(min = 8, max = 1024))]
    pub resolution: i32,
    /// Vision transformer (ViT).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vit: Option<VitConfig>,
    /// Modified ResNet with attention pooling. The resolution must be divisible by 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resnet: Option<ResnetConfig>,
}

impl ImageTower {
    fn problems(&self) -> Vec<FieldProblem> {
        match (&self.vit, &self.resnet) {
            (Some(vit), None) => vit.problems(self.resolution),
            (None, Some(resnet)) => resnet.problems(self.resolution),
            _ => vec![FieldProblem::new(
                "image",
                "must have exactly one of vit and resnet",
            )],
        }
    }
}

/// Vision transformer (ViT).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VitConfig {
    /// Number of transformer blocks.
    #[schemars(range(min = 1, max = 128))]
    pub layers: i32,
    /// Hidden size.
    #[schemars(range(min = 8, max = 8192))]
    pub width: i32,
    /// Side length of a patch, in pixels; must divide the resolution.
    #[schemars(range(min = 1, max = 128))]
    pub patch_size: i32,
    /// Dimension of an attention head; must divide the width.
    #[serde(default = "defaults::head_width")]
    #[schemars(range(min = 1, max = 256))]
    pub head_width: i32,
}

impl VitConfig {
    fn problems(&self, resolution: i32) -> Vec<FieldProblem> {
        let patch = self.patch_size;
        let head = self.head_width;
        let bounds = [
            Bounds::within("image.vit.layers", self.layers, 1..=128),
            Bounds::within("image.vit.width", self.width, 1..=8192),
            Bounds::within("image.vit.patchSize", patch, 1..=128),
            Bounds::within("image.vit.headWidth", head, 1..=256),
        ];

        let mut problems = bounds_problems(&bounds);
        problems.extend(multiple_problem(
            "image.resolution",
            resolution,
            "image.vit.patchSize",
            patch,
        ));

        problems.extend(multiple_problem(
            "image.vit.width",
            self.width,
            "image.vit.headWidth",
            head,
        ));

        problems
    }
}

/// Modified ResNet: three-convolution stem, anti-aliased strided convolutions, attention pooling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResnetConfig {
    /// Number of bottleneck blocks in each of the four layers.
    #[schemars(length(min = 4, max = 4))]
    pub layers: Vec<i32>,
    /// Channels of the stem; the output has 32 times as many. Must be even.
    #[schemars(range(min = 2, max = 1024))]
    pub width: i32,
}

impl ResnetConfig {
    fn problems(&self, resolution: i32) -> Vec<FieldProblem> {
        let is_depth = |layers: &i32| (1..=128).contains(layers);
        if self.layers.len() != 4 || !self.layers.iter().all(is_depth) {
            let message = "must be four numbers of 1 to 128";
            return vec![FieldProblem::new("image.resnet.layers", message)];
        }

        let path = "image.resnet.width";
        let mut problems = bounds_problems(&[Bounds::within(path, self.width, 2..=1024)]);
        // The stem's first two convolutions have half the width; the tower halves the resolution five times.
        problems.extend(multiple_problem(path, self.width, "two halves", 2));
        let path = "image.resolution";
        problems.extend(multiple_problem(path, resolution, "five halvings", 32));
        problems
    }
}

/// Text tower: BERT, pooled at the `[CLS]` token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TextTower {
    /// Vocabulary size.
    #[serde(default = "defaults::vocab_size")]
    #[schemars(range(min = 4, max = 1000000))]
    pub vocab_size: i32,
    /// Number of transformer layers.
    #[schemars(range(min = 1, max = 128))]
    pub layers: i32,
    /// Hidden size; must be a multiple of `heads`.
    #[schemars(range(min = 8, max = 8192))]
    pub width: i32,
    /// Number of attention heads.
    #[schemars(range(min = 1, max = 128))]
    pub heads: i32,
    /// Intermediate size of the feed-forward layers.
    #[schemars(range(min = 8, max = 32768))]
    pub intermediate: i32,
    /// Number of position embeddings: the maximum text length in tokens, including `[CLS]` and `[SEP]`.
    #[serde(default = "defaults::positions")]
    #[schemars(range(min = 3, max = 8192))]
    pub positions: i32,
    /// Dropout rate of hidden states, in percent.
    #[serde(default = "defaults::dropout_percent")]
    #[schemars(range(min = 0, max = 90))]
    pub hidden_dropout_percent: i32,
    /// Dropout rate of attention probabilities, in percent.
    #[serde(default = "defaults::dropout_percent")]
    #[schemars(range(min = 0, max = 90))]
    pub attention_dropout_percent: i32,
}

impl TextTower {
    fn bounds_problems(&self) -> Vec<FieldProblem> {
        bounds_problems(&[
            // The four special tokens [PAD], [UNK], [CLS] and [SEP].
            Bounds::within("text.vocabSize", self.vocab_size, 4..=1_000_000),
            Bounds::within("text.layers", self.layers, 1..=128),
            Bounds::within("text.width", self.width, 1..=8192),
            Bounds::within("text.heads", self.heads, 1..=128),
            Bounds::within("text.intermediate", self.intermediate, 1..=32_768),
            // [CLS], one token and [SEP] are the shortest text.
            Bounds::within("text.positions", self.positions, 3..=8192),
            Bounds::at_least("text.hiddenDropoutPercent", self.hidden_dropout_percent, 0),
            Bounds::at_least(
                "text.attentionDropoutPercent",
                self.attention_dropout_percent,
                0,
            ),
        ])
    }

    fn dropout_problem(&self) -> Option<FieldProblem> {
        let dropout = self
            .hidden_dropout_percent
            .max(self.attention_dropout_percent);

        let message = format!("drops {dropout} % of its values; it must be less than 100");
        (dropout >= 100).then(|| FieldProblem::new("text", message))
    }

    fn heads_problem(&self) -> Option<FieldProblem> {
        multiple_problem("text.width", self.width, "text.heads", self.heads)
    }
}

#[cfg(test)]
mod tests;
