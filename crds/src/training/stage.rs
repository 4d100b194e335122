//! Spec of one training stage.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::defaults;
use crate::stage::{Augmentation, DuplicatePolicy, FrozenTower, MicroBatch};

/// A training stage: data set, length and hyperparameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.epochs) != has(self.steps)").message("give exactly one of epochs and steps"))]
#[x_kube(validation = Rule::new("!has(self.steps) || self.warmupSteps < self.steps").message("warmupSteps must be less than steps"))]
#[x_kube(validation = Rule::new("!has(self.distillation) || self.freeze != 'Image'").message("distillation trains the image tower: freeze must not be Image"))]
pub struct StageSpec {
    /// Name of the stage, unique in the run. Used in object names and in the artifact prefix.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("must be lower-case letters, digits and dashes"))]
    // Pods have hostnames `<run>-<stage>-<attempt>-<index>`, DNS labels of at most 63 characters:
    // 32 for the run, 20 for the stage, 4 each for the numbers, and 3 dashes.
    #[schemars(length(min = 1, max = 20))]
    pub name: String,
    /// Name of the training data set.
    #[schemars(length(min = 1, max = 63))]
    pub dataset: String,
    /// Frozen part of the model: its parameters are not updated.
    #[serde(default)]
    pub freeze: FrozenTower,
    /// Length in epochs. Exactly one of `epochs` and `steps` must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub epochs: Option<i64>,
    /// Length in optimizer steps. Exactly one of `epochs` and `steps` must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<i64>,
    /// Global batch size: samples per optimizer step across all workers.
    #[schemars(range(min = 2, max = 4194304))]
    pub global_batch_size: i32,
    /// Micro-batch size: samples that a device processes at a time. Features of the other micro-batches are
    /// cached and recomputed for the backward pass (GradCache): less memory, the gradient of the whole batch,
    /// and about 40% more time per step. Unset: the device's whole share of the global batch. `Auto` selects
    /// the largest size that fits into the worker's memory and, after an attempt that ran out of memory, half
    /// of that size; not supported for ResNets, where the micro-batch size determines the batch normalization
    /// statistics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 1 && self <= 4194304 : self == 'Auto'").message("must be a number of pairs from 1 to 4194304, or Auto"))]
    pub micro_batch_size: Option<MicroBatch>,
    /// Gradient checkpointing: keep only the inputs of each transformer block and recompute activations in
    /// the backward pass. Less memory, the same gradient, and about a third more time per step. Unset:
    /// enabled only if microBatchSize is Auto and memory is short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_checkpointing: Option<bool>,
    /// Peak learning rate, reached at the end of the warm-up, as a decimal such as "1e-4".
    // Text, because the Kubernetes API conventions avoid floats: their JSON form differs between
    // clients.
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?([eE][-+]?[0-9]+)?$') && double(self) > 0.0").message("must be a positive decimal such as \"1e-4\""))]
    #[schemars(length(min = 1, max = 24))]
    pub learning_rate: String,
    /// Number of linear warm-up steps, followed by cosine decay to zero.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub warmup_steps: i64,
    /// Decoupled weight decay (AdamW), as a decimal.
    #[serde(default = "defaults::weight_decay")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?([eE][-+]?[0-9]+)?$')").message("must be a decimal of at least 0 such as \"1e-3\""))]
    #[schemars(length(min = 1, max = 24))]
    pub weight_decay: String,
    /// Gradient clipping: maximum global L2 norm, as a decimal such as "1.0". Unset: no clipping, as in the
    /// reference implementation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?([eE][-+]?[0-9]+)?$') && double(self) > 0.0").message("must be a positive decimal such as \"1.0\""))]
    #[schemars(length(min = 1, max = 24))]
    pub max_gradient_norm: Option<String>,
    /// Maximum number of skipped steps before the stage fails. A step with a non-finite loss or gradient is
    /// skipped: it is counted, but does not update the model.
    #[serde(default = "defaults::max_skipped_steps")]
    #[schemars(range(min = 0))]
    pub max_skipped_steps: i64,
    /// EMA decay of the weights, as a decimal such as "0.999". If set, the averaged weights are validated and
    /// are the result of the stage; training continues on the unaveraged weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?([eE][-+]?[0-9]+)?$') && double(self) > 0.0 && double(self) < 1.0").message("must be a decimal between 0 and 1 such as \"0.999\""))]
    #[schemars(length(min = 1, max = 24))]
    pub average_decay: Option<String>,
    /// Treatment of samples in a batch that have the same image or the same text: `Negatives` treats them as
    /// negatives as in the reference implementation, `Positives` as positives of each other.
    #[serde(default)]
    pub duplicates: DuplicatePolicy,
    /// Knowledge distillation of the image tower from a teacher model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationSpec>,
    /// Training-time image augmentation.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// Synchronized batch normalization: statistics of the global batch instead of each device's batch
    /// (`--use-bn-sync` of the reference implementation). Applies to ResNet image towers only.
    #[serde(default)]
    pub synchronize_batch_norm: bool,
    /// Percentage of image patches dropped in training, resampled at every step (FLIP). Faster steps at lower
    /// accuracy. Supported for ViT image towers only.
    #[serde(default)]
    #[schemars(range(min = 0, max = 90))]
    pub masked_patches_percent: i32,
    /// Periodic validation by retrieval recall. The checkpoint with the best recall is retained and is the
    /// result of the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<StageValidation>,
}

/// A field of a stage that holds a decimal as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecimalField<'a> {
    /// Path of the field in the stage.
    pub name: &'static str,
    /// Its value.
    pub text: &'a str,
}

impl StageSpec {
    /// The fields that are given and hold a decimal as text.
    pub fn decimal_fields(&self) -> Vec<DecimalField<'_>> {
        let distillation = self.distillation.as_ref();
        let fields = [
            ("learningRate", Some(&self.learning_rate)),
            ("weightDecay", Some(&self.weight_decay)),
            ("maxGradientNorm", self.max_gradient_norm.as_ref()),
            ("averageDecay", self.average_decay.as_ref()),
            ("distillation.weight", distillation.map(|spec| &spec.weight)),
        ];

        let given = fields.into_iter().filter_map(|(name, text)| {
            let text = text?.as_str();
            Some(DecimalField { name, text })
        });

        given.collect()
    }
}

/// Knowledge distillation: teacher and loss weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DistillationSpec {
    /// Weights of the teacher; accepts the same URIs and layouts as `initialWeights`. Only its image tower is
    /// used, whose input resolution must match that of the trained image tower.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https|hf)://.+')").message("must be s3://…, gs://…, az://…, file://…, https://… or hf://…"))]
    #[schemars(length(max = 1024))]
    pub teacher: String,
    /// Weight of the distillation loss (1 − cosine similarity of the image features), as a decimal.
    #[serde(default = "defaults::distillation_weight")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?([eE][-+]?[0-9]+)?$') && double(self) > 0.0").message("must be a positive decimal such as \"0.5\""))]
    #[schemars(length(min = 1, max = 24))]
    pub weight: String,
}

/// Periodic validation by retrieval recall over a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageValidation {
    /// Name of the validation data set.
    #[schemars(length(min = 1, max = 63))]
    pub dataset: String,
    /// Validation interval in steps. The last step is always validated.
    #[schemars(range(min = 1))]
    pub every_steps: i64,
}
