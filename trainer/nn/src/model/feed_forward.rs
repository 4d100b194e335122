//! The feed-forward part of a transformer block: wider, bent, narrow again.

use cnclip_compute::gemm::Onto;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::tensor::{Array, Memory, View, ViewMut};

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
    bent: Array,
    /// After it.
    active: Array,
}

impl FeedForward {
    /// The two layers.
    pub(super) fn new(up: Linear, down: Linear, activation: Activation) -> Self {
        let hidden = up.outputs();
        Self {
            up,
            down,
            activation,
            hidden,
        }
    }

    /// Memory for what is kept of so many rows.
    pub(super) fn reserve(&self, memory: &Memory, rows: usize) -> Saved {
        let array = || memory.array(rows * self.hidden);
        Saved {
            bent: array(),
            active: array(),
        }
    }

    /// Writes `y`, or adds to it.
    pub(super) fn forward(
        &self,
        values: View<'_>,
        Saved { bent, active }: &mut Saved,
        x: View<'_>,
        y: ViewMut<'_>,
        onto: Onto,
    ) {
        let all = x.len() / self.up.inputs() * self.hidden;
        self.up
            .forward(values, x, bent.first_mut(all), Onto::Replace);
        self.activation
            .forward(bent.first(all), active.first_mut(all));
        self.down.forward(values, active.first(all), y, onto);
    }

    /// Adds to the gradients of the weights; writes `dx`, or adds to it. `wide` is scratch.
    pub(super) fn backward(
        &self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        Saved { bent, active }: &Saved,
        (x, dy): (View<'_>, View<'_>),
        wide: &mut Array,
        dx: ViewMut<'_>,
        onto: Onto,
    ) {
        let all = dx.len() / self.up.inputs() * self.hidden;
        let weights = (values, &mut *gradients);
        self.down.backward(
            weights,
            active.first(all),
            dy,
            wide.first_mut(all),
            Onto::Replace,
        );

        self.activation
            .backward(bent.first(all), wide.first_mut(all));
        self.up
            .backward((values, gradients), x, wide.first(all), dx, onto);
    }
}
