//! The optimizer's configuration, and the rules of its values.

use serde::{Deserialize, Serialize};

use super::validation::is_positive;
use crate::field_problem::FieldProblem;

/// Optimizer and learning rate schedule: AdamW, linear warm-up, cosine decay to zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate, reached at the end of the warm-up.
    pub learning_rate: f64,
    /// Number of linear warm-up steps.
    pub warmup_steps: i64,
    /// Decoupled weight decay of the weight matrices.
    pub weight_decay: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// Gradient clipping: maximum global L2 norm. Unset: no clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_gradient_norm: Option<f64>,
    /// EMA decay of the weights. Unset: no EMA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_decay: Option<f64>,
}

impl OptimizerConfig {
    /// Every violated constraint, with paths below `optimizer`.
    pub(super) fn problems(&self) -> Vec<FieldProblem> {
        // 1 is excluded: the bias correction divides by 1 − β^t, which would be 0.
        let is_fraction = |x: f64| (0.0..1.0).contains(&x);
        let rows = [
            FloatRule {
                path: "optimizer.learningRate",
                value: Some(self.learning_rate),
                is_valid: is_positive,
                constraint: "positive",
            },
            FloatRule {
                path: "optimizer.weightDecay",
                value: Some(self.weight_decay),
                is_valid: |x| x >= 0.0 && x.is_finite(),
                constraint: "at least 0",
            },
            FloatRule {
                path: "optimizer.beta1",
                value: Some(self.beta1),
                is_valid: is_fraction,
                constraint: "at least 0 and less than 1",
            },
            FloatRule {
                path: "optimizer.beta2",
                value: Some(self.beta2),
                is_valid: is_fraction,
                constraint: "at least 0 and less than 1",
            },
            FloatRule {
                path: "optimizer.epsilon",
                value: Some(self.epsilon),
                is_valid: is_positive,
                constraint: "positive",
            },
            FloatRule {
                path: "optimizer.maxGradientNorm",
                value: self.max_gradient_norm,
                is_valid: is_positive,
                constraint: "positive",
            },
            FloatRule {
                path: "optimizer.averageDecay",
                value: self.average_decay,
                is_valid: |x| x > 0.0 && x < 1.0,
                constraint: "between 0 and 1",
            },
        ];

        rows.iter().filter_map(FloatRule::problem).collect()
    }
}

/// Constraint of a floating-point field. NaN and infinity violate every constraint.
struct FloatRule {
    path: &'static str,
    value: Option<f64>,
    is_valid: fn(f64) -> bool,
    constraint: &'static str,
}

impl FloatRule {
    fn problem(&self) -> Option<FieldProblem> {
        let value = self.value.filter(|value| !(self.is_valid)(*value))?;
        let message = format!("is {value}; it must be {}.", self.constraint);
        Some(FieldProblem::new(self.path, message))
    }
}
