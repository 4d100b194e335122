//! The feed-forward part of a transformer block: wider, bent, narrow again.

use crate::ops::activation::Activation;
use crate::ops::linear::Linear;
use crate::ops::matrix::Onto;

/// `y = f(x · Uᵀ + b) · Vᵀ + c`.
///
/// # Shapes
/// `x`, `y` [rows, width]; between them [rows, hidden].
#[derive(Debug)]
pub(super) struct FeedForward {
    up: Linear,
    down: Linear,
    activation: Activation,
    hidden: usize,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(super) struct Saved {
    /// Before the activation.
    bent: Vec<f32>,
    /// After it.
    active: Vec<f32>,
}

impl FeedForward {
    /// The two layers.
    pub(super) fn new(up: Linear, down: Linear, activation: Activation) -> Self {
        let hidden = up.outputs();
        Self { up, down, activation, hidden }
    }

    /// Memory for what is kept of so many rows.
    pub(super) fn reserve(&self, rows: usize) -> Saved {
        let array = || vec![0.0; rows * self.hidden];
        Saved { bent: array(), active: array() }
    }

    /// Writes `y`, or adds to it.
    pub(super) fn forward(
        &self,
        values: &[f32],
        saved: &mut Saved,
        x: &[f32],
        y: &mut [f32],
        onto: Onto,
    ) {
        let all = x.len() / self.up.inputs() * self.hidden;
        let (bent, active) = (&mut saved.bent[..all], &mut saved.active[..all]);
        self.up.forward(values, x, bent, Onto::Replace);
        self.activation.forward(bent, active);
        self.down.forward(values, active, y, onto);
    }

    /// Adds to the gradients of the weights; writes `dx`, or adds to it. `wide` is scratch.
    pub(super) fn backward(
        &self,
        (values, gradients): (&[f32], &mut [f32]),
        saved: &Saved,
        (x, dy): (&[f32], &[f32]),
        wide: &mut [f32],
        dx: &mut [f32],
        onto: Onto,
    ) {
        let wide = &mut wide[..dx.len() / self.up.inputs() * self.hidden];
        let active = &saved.active[..wide.len()];
        self.down.backward((values, gradients), active, dy, wide, Onto::Replace);
        self.activation.backward(&saved.bent[..wide.len()], wide);
        self.up.backward((values, gradients), x, wide, dx, onto);
    }
}
