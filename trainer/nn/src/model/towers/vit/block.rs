//! One layer of the image tower, with layer norms before its sublayers.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::layer_norm::{LayerNorm, LayerNormCache, MOMENTS_PER_ROW};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::sequences::{Pooling, gather_rows, scatter_rows};
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

use crate::model::towers::transformer::{
    FeedForward, FeedForwardCache, LayerCapacity, LayerInput, LayerLengths, SelfAttention,
    SelfAttentionCache, TransformerLayer, TransformerScratch,
};
use crate::model::towers::{FlatParams, InputGradient};

/// `m = x + attention(norm(x))`, `y = m + feed_forward(norm(m))`.
///
/// # Shapes
/// `x` `[tokens, width]`, `y` [pooled tokens, width]: the last block puts out the class token alone.
#[derive(Debug)]
pub(super) struct VitBlock {
    norm_1: LayerNorm,
    attention: SelfAttention,
    norm_2: LayerNorm,
    feed_forward: FeedForward,
    pooling: Pooling,
}

/// Activations that the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(super) struct VitBlockCache {
    moments_1: Tensor,
    normed_1: Tensor,
    attention: SelfAttentionCache,
    middle: Tensor,
    moments_2: Tensor,
    normed_2: Tensor,
    feed_forward: FeedForwardCache,
}

impl VitBlock {
    /// Declares block `index`.
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        index: usize,
        attention: Attention,
        pooling: Pooling,
    ) -> Self {
        let name = format!("visual.transformer.resblocks.{index}");
        let width = attention.width;
        // The order of declarations is the order of the tensors in the flat arrays.
        let norm_1 = declare_norm(layout, &format!("{name}.ln_1"), width);
        let qkv = declare_qkv(layout, &format!("{name}.attn"), width);
        let output = declare_linear(
            layout,
            &format!("{name}.attn.out_proj"),
            width,
            width,
            ParamInit::Zeros,
        );

        let feed_forward = declare_feed_forward(layout, &format!("{name}.mlp"), width);
        let norm_2 = declare_norm(layout, &format!("{name}.ln_2"), width);
        Self {
            norm_1,
            attention: SelfAttention {
                attention,
                qkv,
                output,
            },
            norm_2,
            feed_forward,
            pooling,
        }
    }
}

impl TransformerLayer for VitBlock {
    type Cache = VitBlockCache;

    fn pooling(&self) -> Pooling {
        self.pooling
    }

    fn alloc_cache(&self, memory: &Memory, capacity: LayerCapacity) -> VitBlockCache {
        let LayerCapacity {
            tokens,
            pooled_tokens,
        } = capacity;

        let width = self.attention.attention.width;
        VitBlockCache {
            moments_1: memory.alloc_f32(tokens * MOMENTS_PER_ROW),
            normed_1: memory.alloc_activations(tokens * width),
            attention: self.attention.alloc_cache(memory, capacity),
            middle: memory.alloc_activations(pooled_tokens * width),
            moments_2: memory.alloc_f32(pooled_tokens * MOMENTS_PER_ROW),
            normed_2: memory.alloc_activations(pooled_tokens * width),
            feed_forward: self.feed_forward.alloc_cache(memory, pooled_tokens),
        }
    }

    fn forward(
        &self,
        values: TensorView<'_>,
        input: LayerInput<'_>,
        y: TensorViewMut<'_>,
        cache: &mut VitBlockCache,
        scratch: &mut TransformerScratch,
    ) {
        let LayerLengths {
            tokens,
            pooled_tokens,
            all,
            pooled,
            ..
        } = self.attention.batch_lengths(input);

        let width = self.attention.attention.width;
        let x = input.x.first_n(all);
        let mut y = y.first_n(pooled);

        let moments = cache.moments_1.first_n_mut(tokens * MOMENTS_PER_ROW);
        self.norm_1
            .forward(values, x, cache.normed_1.first_n_mut(all), moments);

        // m = x + attention(norm(x)): the output projection adds to the residual.
        let attention_input = LayerInput {
            x: cache.normed_1.view(),
            ..input
        };

        gather_rows(input.sequences, width, x, cache.middle.first_n_mut(pooled));

        self.attention.forward(
            values,
            attention_input,
            cache.middle.first_n_mut(pooled),
            Accumulate::Yes,
            &mut cache.attention,
            &mut scratch.attention,
        );

        let middle = cache.middle.first_n(pooled);
        let moments = cache.moments_2.first_n_mut(pooled_tokens * MOMENTS_PER_ROW);
        self.norm_2
            .forward(values, middle, cache.normed_2.first_n_mut(pooled), moments);

        // y = m + feed_forward(norm(m)), likewise.
        y.copy_from(middle);
        self.feed_forward.forward(
            values,
            &mut cache.feed_forward,
            cache.normed_2.first_n(pooled),
            y,
            Accumulate::Yes,
        );
    }

    fn backward(
        &self,
        params: &mut FlatParams<'_>,
        input: LayerInput<'_>,
        cache: &VitBlockCache,
        scratch: &mut TransformerScratch,
    ) {
        self.backward_feed_forward(params, input, cache, scratch);
        self.backward_attention(params, input, cache, scratch);
    }
}

impl VitBlock {
    /// From the gradient of `y` to that of `m`, both in `scratch.gradient`: the residual connection
    /// passes it on as it is, and the branch adds to it.
    fn backward_feed_forward(
        &self,
        params: &mut FlatParams<'_>,
        input: LayerInput<'_>,
        cache: &VitBlockCache,
        scratch: &mut TransformerScratch,
    ) {
        let LayerLengths {
            pooled_tokens,
            pooled,
            ..
        } = self.attention.batch_lengths(input);

        let TransformerScratch {
            gradient,
            branch,
            hidden,
            ..
        } = scratch;

        self.feed_forward.backward(
            params,
            &cache.feed_forward,
            cache.normed_2.first_n(pooled),
            gradient.first_n(pooled),
            hidden,
            InputGradient::replace(branch.first_n_mut(pooled)),
        );

        let middle = cache.middle.first_n(pooled);
        let moments = cache.moments_2.first_n(pooled_tokens * MOMENTS_PER_ROW);
        self.norm_2.backward(
            params.values,
            &mut params.gradients,
            LayerNormCache { x: middle, moments },
            branch.first_n(pooled),
            gradient.first_n_mut(pooled),
            Accumulate::Yes,
        );
    }

    /// From the gradient of `m` to that of `x`, both in `scratch.gradient`.
    fn backward_attention(
        &self,
        params: &mut FlatParams<'_>,
        input: LayerInput<'_>,
        cache: &VitBlockCache,
        scratch: &mut TransformerScratch,
    ) {
        let LayerLengths {
            tokens,
            all,
            pooled,
            ..
        } = self.attention.batch_lengths(input);

        let TransformerScratch {
            gradient,
            branch,
            attention,
            ..
        } = scratch;

        let attention_input = LayerInput {
            x: cache.normed_1.view(),
            ..input
        };

        self.attention.backward_attention(
            params,
            attention_input,
            &cache.attention,
            gradient.first_n(pooled),
            branch.first_n_mut(pooled),
            attention,
        );

        // The residual of pooled tokens goes back to their rows; `branch` is free again, so the two swap.
        scatter_rows(
            input.sequences,
            self.attention.attention.width,
            gradient.first_n(pooled),
            branch.first_n_mut(all),
        );

        std::mem::swap(gradient, branch);
        self.attention.backward_qkv(
            params,
            attention_input,
            attention,
            InputGradient::replace(branch.first_n_mut(all)),
        );

        let x = input.x.first_n(all);
        let moments = cache.moments_1.first_n(tokens * MOMENTS_PER_ROW);
        self.norm_1.backward(
            params.values,
            &mut params.gradients,
            LayerNormCache { x, moments },
            branch.first_n(all),
            gradient.first_n_mut(all),
            Accumulate::Yes,
        );
    }
}

fn declare_norm(layout: &mut ParamLayout, name: &str, width: usize) -> LayerNorm {
    LayerNorm::declare_params(layout, name, width, super::LAYER_NORM_EPSILON)
}

/// Query, key and value: one tensor by name, as in PyTorch's `nn.MultiheadAttention`.
fn declare_qkv(layout: &mut ParamLayout, name: &str, width: usize) -> Linear {
    let outputs = 3 * width;
    let weight = layout.register_weight(
        &format!("{name}.in_proj_weight"),
        &[outputs, width],
        ParamInit::xavier_uniform(width, outputs),
    );

    let bias = layout.register_weight(
        &format!("{name}.in_proj_bias"),
        &[outputs],
        ParamInit::Zeros,
    );

    Linear::new(weight, Some(bias), width)
}

fn declare_feed_forward(layout: &mut ParamLayout, name: &str, width: usize) -> FeedForward {
    let hidden = super::HIDDEN_RATIO * width;
    let up = declare_linear(
        layout,
        &format!("{name}.c_fc"),
        width,
        hidden,
        ParamInit::uniform_fan_in(width),
    );

    let down = declare_linear(
        layout,
        &format!("{name}.c_proj"),
        hidden,
        width,
        ParamInit::uniform_fan_in(hidden),
    );

    FeedForward::new(up, down, Activation::QuickGelu)
}

fn declare_linear(
    layout: &mut ParamLayout,
    name: &str,
    inputs: usize,
    outputs: usize,
    bias: ParamInit,
) -> Linear {
    let weight = ParamInit::uniform_fan_in(inputs);
    Linear::declare_params(layout, name, inputs, outputs, weight, bias)
}
