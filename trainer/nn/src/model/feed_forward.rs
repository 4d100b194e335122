//! The feed-forward part of a transformer block: wider, bent, narrow again.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

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
pub(super) struct FeedForwardCache {
    /// Before the activation.
    preactivation: Tensor,
    /// After it.
    activated: Tensor,
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
    pub(super) fn alloc_cache(&self, memory: &Memory, rows: usize) -> FeedForwardCache {
        let array = || memory.alloc_activations(rows * self.hidden);
        FeedForwardCache {
            preactivation: array(),
            activated: array(),
        }
    }

    /// Writes `y`, or adds to it.
    pub(super) fn forward(
        &self,
        values: TensorView<'_>,
        FeedForwardCache {
            preactivation: bent,
            activated: active,
        }: &mut FeedForwardCache,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        onto: Accumulate,
    ) {
        let all = x.len() / self.up.inputs() * self.hidden;
        self.up
            .forward(values, x, bent.first_n_mut(all), Accumulate::No);
        self.activation
            .forward(bent.first_n(all), active.first_n_mut(all));
        self.down.forward(values, active.first_n(all), y, onto);
    }

    /// Adds to the gradients of the weights; writes `dx`, or adds to it. `wide` is scratch.
    pub(super) fn backward(
        &self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        FeedForwardCache {
            preactivation: bent,
            activated: active,
        }: &FeedForwardCache,
        (x, dy): (TensorView<'_>, TensorView<'_>),
        wide: &mut Tensor,
        dx: TensorViewMut<'_>,
        onto: Accumulate,
    ) {
        let all = dx.len() / self.up.inputs() * self.hidden;
        let weights = (values, &mut *gradients);
        self.down.backward(
            weights,
            active.first_n(all),
            dy,
            wide.first_n_mut(all),
            Accumulate::No,
        );

        self.activation
            .backward(bent.first_n(all), wide.first_n_mut(all));
        self.up
            .backward((values, gradients), x, wide.first_n(all), dx, onto);
    }
}
