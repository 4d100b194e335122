//! The feed-forward network of a transformer layer: a wider hidden layer with an activation.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

use crate::model::towers::{FlatParams, InputGradient};

/// `y = f(x · Uᵀ + b) · Vᵀ + c`.
///
/// # Shapes
/// `x`, `y` `[rows, width]`; between them `[rows, hidden]`.
#[derive(Debug)]
pub(crate) struct FeedForward {
    up: Linear,
    down: Linear,
    activation: Activation,
    hidden: usize,
}

/// Activations that the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(crate) struct FeedForwardCache {
    /// Before the activation function. Kept beside its output, because the derivatives of GELU and
    /// QuickGELU cannot be had from the output alone.
    preactivation: Tensor,
    /// After it.
    activated: Tensor,
}

impl FeedForward {
    /// The two layers.
    pub(crate) fn new(up: Linear, down: Linear, activation: Activation) -> Self {
        let hidden = up.outputs();
        Self {
            up,
            down,
            activation,
            hidden,
        }
    }

    /// Memory for the activations of a number of rows.
    pub(crate) fn alloc_cache(&self, memory: &Memory, rows: usize) -> FeedForwardCache {
        let alloc = || memory.alloc_activations(rows * self.hidden);
        FeedForwardCache {
            preactivation: alloc(),
            activated: alloc(),
        }
    }

    /// Writes `y`, or adds to it.
    pub(crate) fn forward(
        &self,
        values: TensorView<'_>,
        cache: &mut FeedForwardCache,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        accumulate: Accumulate,
    ) {
        let FeedForwardCache {
            preactivation,
            activated,
        } = cache;

        let hidden_len = x.len() / self.up.inputs() * self.hidden;
        self.up.forward(
            values,
            x,
            preactivation.first_n_mut(hidden_len),
            Accumulate::No,
        );

        self.activation.forward(
            preactivation.first_n(hidden_len),
            activated.first_n_mut(hidden_len),
        );

        self.down
            .forward(values, activated.first_n(hidden_len), y, accumulate);
    }

    /// Adds to the gradients of the weights; writes `dx`, or adds to it. `dhidden` is scratch memory.
    pub(crate) fn backward(
        &self,
        params: &mut FlatParams<'_>,
        cache: &FeedForwardCache,
        x: TensorView<'_>,
        dy: TensorView<'_>,
        dhidden: &mut Tensor,
        dx: InputGradient<'_>,
    ) {
        let hidden_len = x.len() / self.up.inputs() * self.hidden;
        self.down.backward(
            params.values,
            &mut params.gradients,
            cache.activated.first_n(hidden_len),
            dy,
            dhidden.first_n_mut(hidden_len),
            Accumulate::No,
        );

        // In place: `dhidden` holds the gradient behind the activation function, and then that before it.
        let preactivation = cache.preactivation.first_n(hidden_len);
        self.activation
            .backward(preactivation, dhidden.first_n_mut(hidden_len));

        self.up.backward(
            params.values,
            &mut params.gradients,
            x,
            dhidden.first_n(hidden_len),
            dx.values,
            dx.accumulate,
        );
    }
}
