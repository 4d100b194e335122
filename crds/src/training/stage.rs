//! One stage of a `CnClipTraining`, as a manifest writes it: what is trained on what, and how.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stage::{Augmentation, DuplicatePolicy, FrozenTower, MicroBatch};

/// One stage of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.epochs) != has(self.steps)").message("give exactly one of epochs and steps"))]
#[x_kube(validation = Rule::new("!has(self.steps) || self.warmupSteps < self.steps").message("warmupSteps must be less than steps"))]
#[x_kube(validation = Rule::new("!has(self.distillation) || self.freeze != 'Image'").message("distillation trains the image tower: freeze must not be Image"))]
pub struct StageSpec {
    /// Name of the stage, unique in the run; part of object names and of the artifact prefix.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("must be lower-case letters, digits and dashes"))]
    #[schemars(length(min = 1, max = 20))]
    pub name: String,
    /// Name of the data set.
    #[schemars(length(min = 1, max = 63))]
    pub dataset: String,
    /// What is left untouched.
    #[serde(default)]
    pub freeze: FrozenTower,
    /// Passes over the data. Give this or `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub epochs: Option<i64>,
    /// Optimizer steps. Give this or `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<i64>,
    /// Pairs in one step, over all workers.
    #[schemars(range(min = 2, max = 4194304))]
    pub global_batch_size: i32,
    /// Pairs that a device computes at once. Of the others of its share only the features are kept, and
    /// they are computed again when it is their turn: memory falls, the gradient stays that of the
    /// whole batch, and a step takes about two fifths longer. The whole share if not given. `Auto` takes
    /// the most that fits into a worker's memory, and half of it from the next attempt on after one that
    /// ran out of memory; not for a ResNet, whose batch normalisation takes statistics of these pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 1 && self <= 4194304 : self == 'Auto'").message("must be a number of pairs from 1 to 4194304, or Auto"))]
    pub micro_batch_size: Option<MicroBatch>,
    /// Keeps only what goes into each block of the towers and computes the rest again for the gradient:
    /// memory falls, the gradient stays the same, and a step takes about a third longer. If not given, it
    /// is done only where microBatchSize is Auto and memory is short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_checkpointing: Option<bool>,
    /// Learning rate at the end of the warm-up, as a decimal such as "1e-4".
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?([eE][-+]?[0-9]+)?$') && double(self) > 0.0").message("must be a positive decimal such as \"1e-4\""))]
    #[schemars(length(min = 1, max = 24))]
    pub learning_rate: String,
    /// Steps of linear warm-up; then the rate falls to zero along a cosine.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub warmup_steps: i64,
    /// Decoupled weight decay, as a decimal.
    #[serde(default = "weight_decay")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?([eE][-+]?[0-9]+)?$')").message("must be a decimal of at least 0 such as \"1e-3\""))]
    #[schemars(length(min = 1, max = 24))]
    pub weight_decay: String,
    /// Longest gradient, as a decimal such as "1.0": one whose norm over all weights is larger is scaled
    /// to it. No limit if not given, as in the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?([eE][-+]?[0-9]+)?$') && double(self) > 0.0").message("must be a positive decimal such as \"1.0\""))]
    #[schemars(length(min = 1, max = 24))]
    pub max_gradient_norm: Option<String>,
    /// Steps that may be skipped before the stage fails. A step whose loss or gradient is not finite
    /// is skipped: it counts as a step, and changes nothing else.
    #[serde(default = "max_skipped_steps")]
    #[schemars(range(min = 0))]
    pub max_skipped_steps: i64,
    /// Share of the old in a running average of the weights, as a decimal such as "0.999". Where it is
    /// given, the average is what validations measure and what the stage ends with; the weights
    /// themselves go on training beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?([eE][-+]?[0-9]+)?$') && double(self) > 0.0 && double(self) < 1.0").message("must be a decimal between 0 and 1 such as \"0.999\""))]
    #[schemars(length(min = 1, max = 24))]
    pub average_decay: Option<String>,
    /// What two pairs of one batch are to each other that have the same picture or the same caption:
    /// `Negatives` drives them apart as the reference does, `Positives` makes each right for the other.
    #[serde(default)]
    pub duplicates: DuplicatePolicy,
    /// Pulls the pictures' features toward those of a larger model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationSpec>,
    /// What happens to pictures before the tower sees them.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// Whether batch normalisation takes the statistics of all workers' pairs together, not those of
    /// each worker's own: `--use-bn-sync` of the reference. Only ResNet towers have any.
    #[serde(default)]
    pub synchronize_batch_norm: bool,
    /// Patches of each picture that are left out while training, in percent, drawn anew for every step
    /// (FLIP): steps are faster and less accurate. Only for ViT towers.
    #[serde(default)]
    #[schemars(range(min = 0, max = 90))]
    pub masked_patches_percent: i32,
    /// Recall on held-out pairs while training. The best checkpoint by it is kept and ends the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<StageValidation>,
}

fn weight_decay() -> String {
    "0.001".to_owned()
}
fn max_skipped_steps() -> i64 {
    10
}

/// A teacher, and how much its word counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DistillationSpec {
    /// Where the teacher's weights are, in any place and layout that `initialWeights` can name. Only its
    /// image tower is used; its pictures must have the resolution of the trained one.
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|az|file|https|hf)://.+')").message("must be s3://…, gs://…, az://…, file://…, https://… or hf://…"))]
    #[schemars(length(max = 1024))]
    pub teacher: String,
    /// What 1 − cosine of the teacher's and the tower's features is multiplied with before it is
    /// added to the loss, as a decimal.
    #[serde(default = "distillation_weight")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?([eE][-+]?[0-9]+)?$') && double(self) > 0.0").message("must be a positive decimal such as \"0.5\""))]
    #[schemars(length(min = 1, max = 24))]
    pub weight: String,
}

fn distillation_weight() -> String {
    "0.5".to_owned()
}

/// Recall over a whole data set while training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageValidation {
    /// Name of the data set.
    #[schemars(length(min = 1, max = 63))]
    pub dataset: String,
    /// Steps between two validations. The last step always has one.
    #[schemars(range(min = 1))]
    pub every_steps: i64,
}
