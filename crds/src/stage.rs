//! Enumerations of a training stage, shared by the manifest and the trainer configuration.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Frozen part of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FrozenTower {
    /// No part is frozen.
    #[default]
    None,
    /// The image tower is frozen, as in the first pretraining stage of the Chinese-CLIP paper.
    Image,
}

/// Training-time image augmentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Augmentation {
    /// Resize to the input resolution, as in evaluation.
    None,
    /// Random resized crop (scale 0.9–1.0) and horizontal flip.
    CropFlip,
    /// Random resized crop, horizontal flip and AutoAugment (`--use-augment` of the reference
    /// implementation).
    #[default]
    AutoAugment,
}

/// Treatment of samples in a batch that have the same image or the same text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DuplicatePolicy {
    /// Duplicates are negatives, as in the reference implementation.
    #[default]
    Negatives,
    /// Duplicates are positives: the target distribution of an image is uniform over the texts of its
    /// duplicates, and vice versa.
    Positives,
}

/// Micro-batch size per device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MicroBatch {
    /// Fixed number of samples.
    Pairs(i32),
    /// Selected by the trainer: the largest size that fits into memory.
    Chosen(AutoKeyword),
}

/// Keyword of an automatically selected value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
// An enum of its own: an untagged unit variant would be serialized as null, not as its name.
pub enum AutoKeyword {
    /// Selected by the trainer.
    Auto,
}

impl MicroBatch {
    /// The largest size that fits into memory.
    pub const AUTO: Self = Self::Chosen(AutoKeyword::Auto);

    /// The fixed number of samples; `None` for `Auto`.
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
        // Structural schemas forbid `type` inside `anyOf`, except in exactly this form beside
        // `x-kubernetes-int-or-string`. The maximum length bounds the estimated cost of the CEL
        // rules.
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 4,
        })
    }
}

/// Accelerator type of the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Accelerator {
    /// NVIDIA GPU.
    #[default]
    Nvidia,
    /// No accelerator: CPU.
    None,
}

/// Floating-point format of the model's computation. Master weights are always fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    Fp32,
    /// bfloat16 operands with fp32 accumulation. Emulated on CPUs, where it saves neither time nor memory.
    Bf16,
}
