//! The words of one stage of training: what a user chooses in a manifest and a trainer obeys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a stage leaves untouched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Freeze {
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
pub enum Duplicates {
    /// Wrong for each other, as in the reference: the loss drives equal things apart.
    #[default]
    Negatives,
    /// Right for each other: each picture has all captions of its equals for a target, in equal
    /// shares, and each caption all pictures.
    Positives,
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
