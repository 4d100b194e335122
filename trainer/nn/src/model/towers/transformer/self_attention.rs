//! The self-attention sublayer of a transformer layer: projections in and out around multi-head attention.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::attention::{self, Attention, AttentionCache};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

use super::{AttentionScratch, LayerCapacity, LayerInput, LayerLengths};
use crate::model::towers::{FlatParams, InputGradient};

/// `y = output(attention(qkv(x)))`.
///
/// # Shapes
/// `x` `[tokens, width]`, `y` `[pooled tokens, width]`
#[derive(Debug)]
pub(crate) struct SelfAttention {
    pub(crate) attention: Attention,
    /// Query, key and value in one matrix product: one wide product keeps a device busier than three.
    pub(crate) qkv: Linear,
    pub(crate) output: Linear,
}

/// Activations that the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(crate) struct SelfAttentionCache {
    qkv: Tensor,
    probabilities: Tensor,
    attended: Tensor,
}

impl SelfAttention {
    /// Memory for the activations of a batch.
    pub(crate) fn alloc_cache(
        &self,
        memory: &Memory,
        capacity: LayerCapacity,
    ) -> SelfAttentionCache {
        let width = self.attention.width;
        let pooled_tokens = capacity.pooled_tokens;
        SelfAttentionCache {
            qkv: memory.alloc_activations(capacity.tokens * 3 * width),
            probabilities: self.attention.alloc_probabilities(memory, pooled_tokens),
            attended: memory.alloc_activations(pooled_tokens * width),
        }
    }

    /// How many values of each array a batch uses.
    pub(crate) fn batch_lengths(&self, input: LayerInput<'_>) -> LayerLengths {
        LayerLengths::new(&self.attention, input.sequences)
    }

    /// Writes `y`, or adds to it.
    pub(crate) fn forward(
        &self,
        values: TensorView<'_>,
        input: LayerInput<'_>,
        y: TensorViewMut<'_>,
        accumulate: Accumulate,
        cache: &mut SelfAttentionCache,
        scratch: &mut AttentionScratch,
    ) {
        let LayerLengths {
            all,
            pooled,
            probabilities,
            ..
        } = self.batch_lengths(input);

        // Keys and values of all tokens, even where only the first token of each sequence goes on: its query
        // attends to all of them.
        let qkv = cache.qkv.first_n_mut(3 * all);
        self.qkv
            .forward(values, input.x.first_n(all), qkv, Accumulate::No);

        self.attention.forward(
            input.sequences,
            input.dropouts.attention,
            cache.qkv.first_n(3 * all),
            cache.probabilities.first_n_mut(probabilities),
            scratch.dropped_probabilities.first_n_mut(probabilities),
            cache.attended.first_n_mut(pooled),
        );

        self.output
            .forward(values, cache.attended.first_n(pooled), y, accumulate);
    }

    /// The first half of the backward pass, through the output projection and attention: writes the
    /// gradient of query, key and value into `scratch`; `dattended` is scratch memory.
    ///
    /// # Shapes
    /// `dy`, `dattended` `[pooled tokens, width]`
    pub(crate) fn backward_attention(
        &self,
        params: &mut FlatParams<'_>,
        input: LayerInput<'_>,
        cache: &SelfAttentionCache,
        dy: TensorView<'_>,
        mut dattended: TensorViewMut<'_>,
        scratch: &mut AttentionScratch,
    ) {
        let LayerLengths {
            all,
            pooled,
            probabilities,
            ..
        } = self.batch_lengths(input);

        let attended = cache.attended.first_n(pooled);
        self.output.backward(
            params.values,
            &mut params.gradients,
            attended,
            dy,
            dattended.reborrow(),
            Accumulate::No,
        );

        let attention_cache = AttentionCache {
            qkv: cache.qkv.first_n(3 * all),
            probabilities: cache.probabilities.first_n(probabilities),
            out: attended,
        };

        let attention_scratch = attention::AttentionScratch {
            dropped: scratch.dropped_probabilities.first_n_mut(probabilities),
            dscores: scratch.dscores.first_n_mut(probabilities),
        };

        self.attention.backward(
            input.sequences,
            input.dropouts.attention,
            attention_cache,
            dattended.as_view(),
            attention_scratch,
            scratch.dqkv.first_n_mut(3 * all),
        );
    }

    /// The second half of the backward pass, from query, key and value to `x`.
    pub(crate) fn backward_qkv(
        &self,
        params: &mut FlatParams<'_>,
        input: LayerInput<'_>,
        scratch: &AttentionScratch,
        dx: InputGradient<'_>,
    ) {
        let all = self.batch_lengths(input).all;
        self.qkv.backward(
            params.values,
            &mut params.gradients,
            input.x.first_n(all),
            scratch.dqkv.first_n(3 * all),
            dx.values,
            dx.accumulate,
        );
    }
}
