//! One layer of the text tower, with layer norms after its residual connections.

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::activation::Activation;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::layer_norm::{LayerNorm, LayerNormCache, MOMENTS_PER_ROW};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::ops::sequences::{Pooling, gather_rows, scatter_rows};
use cnclip_compute::params::{ParamInit, ParamLayout, Weight};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

use crate::model::towers::transformer::{
    FeedForward, FeedForwardCache, LayerCapacity, LayerDropouts, LayerInput, LayerLengths,
    SelfAttention, SelfAttentionCache, TransformerLayer, TransformerScratch,
};
use crate::model::towers::{FlatParams, InputGradient};

/// Dropout sites of a layer.
const SITES_PER_LAYER: u64 = 3;

/// The standard deviation of BERT's initial weights.
const WEIGHT_INIT: ParamInit = ParamInit::Normal(0.02);

/// `m = norm(x + attention(x))`, `y = norm(m + feed_forward(m))`, with dropout before both sums.
///
/// # Shapes
/// `x` `[tokens, width]`, `y` [pooled tokens, width]: the last layer puts out the first token alone.
#[derive(Debug)]
pub(super) struct BertLayer {
    attention: SelfAttention,
    norm_1: LayerNorm,
    feed_forward: FeedForward,
    norm_2: LayerNorm,
    pooling: Pooling,
}

/// Activations that the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(super) struct BertLayerCache {
    attention: SelfAttentionCache,
    sum_1: Tensor,
    moments_1: Tensor,
    middle: Tensor,
    sum_2: Tensor,
    moments_2: Tensor,
    feed_forward: FeedForwardCache,
}

/// Dropout probabilities of the text tower.
#[derive(Clone, Copy, Debug)]
pub(super) struct DropoutRates {
    /// Of hidden values.
    pub(super) hidden: f32,
    /// Of attention probabilities.
    pub(super) attention: f32,
}

impl DropoutRates {
    /// The dropouts of one layer. Each place draws masks from a site of its own, so that no two share one:
    /// site 0 is the embedding's, and three follow for each layer.
    pub(super) fn layer_dropouts(self, dropout: Dropout, layer: usize) -> LayerDropouts {
        let site = 1 + SITES_PER_LAYER * layer as u64;
        LayerDropouts {
            attention: dropout.at_site(site, self.attention),
            attention_output: dropout.at_site(site + 1, self.hidden),
            feed_forward_output: dropout.at_site(site + 2, self.hidden),
        }
    }
}

impl BertLayer {
    /// Declares layer `index`.
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        index: usize,
        attention: Attention,
        hidden: usize,
        pooling: Pooling,
    ) -> Self {
        let name = format!("bert.encoder.layer.{index}");
        let width = attention.width;
        // The order of declarations is the order of the tensors in the flat arrays.
        let qkv = declare_qkv(layout, &format!("{name}.attention.self"), width);
        let output_name = format!("{name}.attention.output.dense");
        let output = declare_linear(layout, &output_name, width, width);
        let norm_1 = declare_norm(layout, &format!("{name}.attention.output.LayerNorm"), width);
        let up = declare_linear(layout, &format!("{name}.intermediate.dense"), width, hidden);

        let down = declare_linear(layout, &format!("{name}.output.dense"), hidden, width);
        let norm_2 = declare_norm(layout, &format!("{name}.output.LayerNorm"), width);
        Self {
            attention: SelfAttention {
                attention,
                qkv,
                output,
            },
            norm_1,
            feed_forward: FeedForward::new(up, down, Activation::Gelu),
            norm_2,
            pooling,
        }
    }
}

impl TransformerLayer for BertLayer {
    type Cache = BertLayerCache;

    fn pooling(&self) -> Pooling {
        self.pooling
    }

    fn alloc_cache(&self, memory: &Memory, capacity: LayerCapacity) -> BertLayerCache {
        let pooled_tokens = capacity.pooled_tokens;
        let alloc_pooled =
            || memory.alloc_activations(pooled_tokens * self.attention.attention.width);
        let alloc_moments = || memory.alloc_f32(pooled_tokens * MOMENTS_PER_ROW);
        BertLayerCache {
            attention: self.attention.alloc_cache(memory, capacity),
            sum_1: alloc_pooled(),
            moments_1: alloc_moments(),
            middle: alloc_pooled(),
            sum_2: alloc_pooled(),
            moments_2: alloc_moments(),
            feed_forward: self.feed_forward.alloc_cache(memory, pooled_tokens),
        }
    }

    fn forward(
        &self,
        values: TensorView<'_>,
        input: LayerInput<'_>,
        y: TensorViewMut<'_>,
        cache: &mut BertLayerCache,
        scratch: &mut TransformerScratch,
    ) {
        self.forward_attention(values, input, cache, scratch);
        self.forward_feed_forward(values, input, y, cache);
    }

    fn backward(
        &self,
        params: &mut FlatParams<'_>,
        input: LayerInput<'_>,
        cache: &BertLayerCache,
        scratch: &mut TransformerScratch,
    ) {
        self.backward_feed_forward(params, input, cache, scratch);
        self.backward_attention(params, input, cache, scratch);
    }
}

impl BertLayer {
    /// Writes `m`.
    fn forward_attention(
        &self,
        values: TensorView<'_>,
        input: LayerInput<'_>,
        cache: &mut BertLayerCache,
        scratch: &mut TransformerScratch,
    ) {
        let LayerLengths {
            pooled_tokens,
            all,
            pooled,
            ..
        } = self.attention.batch_lengths(input);

        let width = self.attention.attention.width;
        self.attention.forward(
            values,
            input,
            cache.sum_1.first_n_mut(pooled),
            Accumulate::No,
            &mut cache.attention,
            &mut scratch.attention,
        );

        // Dropout and the residual connection in one pass over memory, which is what bounds both.
        let residual = scratch.dropped_out.first_n_mut(pooled);
        gather_rows(input.sequences, width, input.x.first_n(all), residual);
        input.dropouts.attention_output.mask_and_add(
            input.sequences,
            width,
            cache.sum_1.first_n_mut(pooled),
            scratch.dropped_out.first_n(pooled),
        );

        let moments = cache.moments_1.first_n_mut(pooled_tokens * MOMENTS_PER_ROW);
        self.norm_1.forward(
            values,
            cache.sum_1.first_n(pooled),
            cache.middle.first_n_mut(pooled),
            moments,
        );
    }

    /// Writes `y`, given `m`.
    fn forward_feed_forward(
        &self,
        values: TensorView<'_>,
        input: LayerInput<'_>,
        y: TensorViewMut<'_>,
        cache: &mut BertLayerCache,
    ) {
        let LayerLengths {
            pooled_tokens,
            pooled,
            ..
        } = self.attention.batch_lengths(input);

        let middle = cache.middle.first_n(pooled);
        self.feed_forward.forward(
            values,
            &mut cache.feed_forward,
            middle,
            cache.sum_2.first_n_mut(pooled),
            Accumulate::No,
        );

        input.dropouts.feed_forward_output.mask_and_add(
            input.sequences,
            self.attention.attention.width,
            cache.sum_2.first_n_mut(pooled),
            middle,
        );

        let sum = cache.sum_2.first_n(pooled);
        let moments = cache.moments_2.first_n_mut(pooled_tokens * MOMENTS_PER_ROW);
        self.norm_2.forward(values, sum, y.first_n(pooled), moments);
    }

    /// From the gradient of `y` in `scratch.gradient` to that of `m` in `scratch.branch`.
    fn backward_feed_forward(
        &self,
        params: &mut FlatParams<'_>,
        input: LayerInput<'_>,
        cache: &BertLayerCache,
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
            dropped_out,
            hidden,
            ..
        } = scratch;

        let moments = cache.moments_2.first_n(pooled_tokens * MOMENTS_PER_ROW);
        self.norm_2.backward(
            params.values,
            &mut params.gradients,
            LayerNormCache {
                x: cache.sum_2.first_n(pooled),
                moments,
            },
            gradient.first_n(pooled),
            branch.first_n_mut(pooled),
            Accumulate::No,
        );

        // `branch` stays the residual's part; its masked copy goes through the feed-forward network,
        // which adds its own part to it.
        input.dropouts.feed_forward_output.apply_mask(
            input.sequences,
            self.attention.attention.width,
            branch.first_n(pooled),
            dropped_out.first_n_mut(pooled),
        );

        self.feed_forward.backward(
            params,
            &cache.feed_forward,
            cache.middle.first_n(pooled),
            dropped_out.first_n(pooled),
            hidden,
            InputGradient::add_to(branch.first_n_mut(pooled)),
        );
    }

    /// From the gradient of `m` in `scratch.branch` to that of `x` in `scratch.gradient`.
    fn backward_attention(
        &self,
        params: &mut FlatParams<'_>,
        input: LayerInput<'_>,
        cache: &BertLayerCache,
        scratch: &mut TransformerScratch,
    ) {
        let LayerLengths {
            pooled_tokens,
            all,
            pooled,
            ..
        } = self.attention.batch_lengths(input);

        let width = self.attention.attention.width;
        let TransformerScratch {
            gradient,
            branch,
            dropped_out,
            attention,
            ..
        } = scratch;

        let moments = cache.moments_1.first_n(pooled_tokens * MOMENTS_PER_ROW);
        self.norm_1.backward(
            params.values,
            &mut params.gradients,
            LayerNormCache {
                x: cache.sum_1.first_n(pooled),
                moments,
            },
            branch.first_n(pooled),
            gradient.first_n_mut(pooled),
            Accumulate::No,
        );

        // As in the other half: `gradient` stays the residual's part, and its masked copy goes through attention.
        input.dropouts.attention_output.apply_mask(
            input.sequences,
            width,
            gradient.first_n(pooled),
            dropped_out.first_n_mut(pooled),
        );

        self.attention.backward_attention(
            params,
            input,
            &cache.attention,
            dropped_out.first_n(pooled),
            branch.first_n_mut(pooled),
            attention,
        );

        // The residual of pooled tokens goes back to their rows, and that of attention is added.
        let residual = gradient.first_n(pooled);
        scatter_rows(input.sequences, width, residual, branch.first_n_mut(all));
        self.attention.backward_qkv(
            params,
            input,
            attention,
            InputGradient::add_to(branch.first_n_mut(all)),
        );

        std::mem::swap(gradient, branch);
    }
}

fn declare_norm(layout: &mut ParamLayout, name: &str, width: usize) -> LayerNorm {
    LayerNorm::declare_params(layout, name, width, super::LAYER_NORM_EPSILON)
}

fn declare_linear(layout: &mut ParamLayout, name: &str, inputs: usize, outputs: usize) -> Linear {
    let zeros = ParamInit::Zeros;
    Linear::declare_params(layout, name, inputs, outputs, WEIGHT_INIT, zeros)
}

/// Query, key and value: three tensors by name, one matrix to multiply with.
fn declare_qkv(layout: &mut ParamLayout, name: &str, width: usize) -> Linear {
    let mut declare_joined = |suffix: &str, shape: &[usize], init| {
        let parts = ["query", "key", "value"].map(|part| {
            let name = format!("{name}.{part}.{suffix}");
            layout.register_weight(&name, shape, init)
        });

        Weight::join_adjacent(&parts)
    };

    let weight = declare_joined("weight", &[width, width], WEIGHT_INIT);
    let bias = declare_joined("bias", &[width], ParamInit::Zeros);
    Linear::new(weight, Some(bias), width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dropout_of_every_layer_draws_its_own_mask() {
        let rates = DropoutRates {
            hidden: 0.5,
            attention: 0.5,
        };

        let dropout = Dropout::new(1, 2, 0);
        let mut masks = vec![dropout.at_site(0, rates.hidden)];
        for layer in 0..3 {
            let LayerDropouts {
                attention,
                attention_output,
                feed_forward_output,
            } = rates.layer_dropouts(dropout, layer);

            masks.extend([attention, attention_output, feed_forward_output]);
        }

        for (i, mask) in masks.iter().enumerate() {
            assert!(masks[..i].iter().all(|other| other != mask), "site {i}");
        }
    }
}
