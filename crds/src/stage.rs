//! The words of one stage of training: what a user chooses in a manifest and a trainer obeys.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What a stage leaves untouched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FrozenTower {
    /// Everything is trained.
    #[default]
    None,
    /// The image tower is not trained: the first stage of the paper's pretraining.
    Image,
}

/// What happens to a picture before the image tower sees it while training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Augmentation {
    /// Squashed to the tower's square, as in evaluation.
    None,
    /// Random resized crop (area 90–100 %) and horizontal flip.
    CropFlip,
    /// Random resized crop, horizontal flip and AutoAugment: the reference's `--use-augment`.
    #[default]
    AutoAugment,
}

/// What pairs of one batch are to each other that have the same picture or the same caption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DuplicatePolicy {
    /// Wrong for each other, as in the reference: the loss drives equal things apart.
    #[default]
    Negatives,
    /// Right for each other: each picture has all captions of its equals for a target, in equal
    /// shares, and each caption all pictures.
    Positives,
}

/// Pairs that a device computes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MicroBatch {
    /// So many.
    Pairs(i32),
    /// As many as memory allows; the trainer finds out.
    Chosen(AutoKeyword),
}

/// The word for what is left to the trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AutoKeyword {
    /// It chooses.
    Auto,
}

impl MicroBatch {
    /// As many as memory allows.
    pub const AUTO: Self = Self::Chosen(AutoKeyword::Auto);

    /// The number, where one is given.
    pub fn fixed_size(self) -> Option<i32> {
        match self {
            Self::Pairs(pairs) => Some(pairs),
            Self::Chosen(AutoKeyword::Auto) => None,
        }
    }
}

impl JsonSchema for MicroBatch {
    fn schema_name() -> Cow<'static, str> {
        "MicroBatch".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 4,
        })
    }
}

/// What a worker computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Accelerator {
    /// NVIDIA GPUs.
    #[default]
    Nvidia,
    /// The CPU.
    None,
}

/// The number format of the towers' arithmetic. Master weights are always fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    Fp32,
    /// bfloat16 operands, fp32 accumulation. On a CPU it only shows what a GPU would compute: it saves
    /// neither time nor memory.
    Bf16,
}
