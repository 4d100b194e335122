//! A stack of transformer layers over packed sequences, whichever side of a residual connection its
//! layers normalise: runs the layers in order, and backwards with their activations kept or recomputed.

mod activation_store;
mod feed_forward;
mod scratch;
mod self_attention;

use std::fmt::Debug;

use cnclip_compute::collective::GradientReducer;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::sequences::{Pooling, Sequences};
use cnclip_compute::params::ParamLayout;
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};

use super::param_ranges::ParamRanges;
use super::{BlockOutput, FlatParams, TowerCapacity};
use activation_store::ActivationStore;
pub(super) use feed_forward::{FeedForward, FeedForwardCache};
pub(super) use scratch::{AttentionScratch, TransformerScratch};
pub(super) use self_attention::{SelfAttention, SelfAttentionCache};

/// The three dropouts of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerDropouts {
    /// Of attention probabilities.
    pub(super) attention: Dropout,
    /// Of the output of self-attention, before the residual connection.
    pub(super) attention_output: Dropout,
    /// Of the output of the feed-forward network, before the residual connection.
    pub(super) feed_forward_output: Dropout,
}

impl LayerDropouts {
    /// Nothing is dropped.
    pub(super) const NONE: Self = Self {
        attention: Dropout::NONE,
        attention_output: Dropout::NONE,
        feed_forward_output: Dropout::NONE,
    };
}

/// What a layer computes on.
#[derive(Clone, Copy)]
pub(super) struct LayerInput<'a> {
    /// `[tokens, width]`
    pub(super) x: TensorView<'a>,
    /// Where sequences begin, and which of their tokens the layer puts out.
    pub(super) sequences: Sequences<'a>,
    pub(super) dropouts: LayerDropouts,
}

/// How many values of a layer's arrays a batch uses.
#[derive(Clone, Copy)]
pub(super) struct LayerLengths {
    /// Tokens of all sequences.
    pub(super) tokens: usize,
    /// Tokens that the layer puts out: all, or one a sequence where it pools.
    pub(super) pooled_tokens: usize,
    /// Values of all tokens: tokens · width.
    pub(super) all: usize,
    /// Values of pooled tokens: pooled tokens · width.
    pub(super) pooled: usize,
    /// Attention probabilities of pooled tokens.
    pub(super) probabilities: usize,
}

impl LayerLengths {
    fn new(attention: &Attention, sequences: Sequences<'_>) -> Self {
        let tokens = sequences.token_count();
        let pooled_tokens = sequences.pooled_count();
        Self {
            tokens,
            pooled_tokens,
            all: tokens * attention.width,
            pooled: pooled_tokens * attention.width,
            probabilities: pooled_tokens * attention.probabilities_per_token(),
        }
    }
}

/// How many rows a layer's activations have memory for.
#[derive(Clone, Copy)]
pub(super) struct LayerCapacity {
    /// Tokens of all sequences.
    pub(super) tokens: usize,
    /// Tokens that the layer puts out.
    pub(super) pooled_tokens: usize,
}

/// One layer: self-attention and a feed-forward network, each with a residual connection and a layer
/// norm.
pub(super) trait TransformerLayer {
    /// Activations that the forward pass keeps for the backward pass.
    type Cache: Debug;

    /// Which tokens the layer puts out.
    fn pooling(&self) -> Pooling;

    /// Memory for the activations of a batch.
    fn alloc_cache(&self, memory: &Memory, capacity: LayerCapacity) -> Self::Cache;

    /// Writes `y`.
    ///
    /// # Shapes
    /// `y` `[pooled tokens, width]`
    fn forward(
        &self,
        values: TensorView<'_>,
        input: LayerInput<'_>,
        y: TensorViewMut<'_>,
        cache: &mut Self::Cache,
        scratch: &mut TransformerScratch,
    );

    /// Adds to the gradients of the weights; `scratch.gradient` holds the gradient of `y`, and then that
    /// of `x`.
    fn backward(
        &self,
        params: &mut FlatParams<'_>,
        input: LayerInput<'_>,
        cache: &Self::Cache,
        scratch: &mut TransformerScratch,
    );
}

/// Transformer layers one after the other.
///
/// # Guarantees
/// Gradients are the same bits whether activations are kept or recomputed: a recomputed forward pass
/// reads the same input and draws the same dropout masks.
#[derive(Debug)]
pub(super) struct TransformerStack<L: TransformerLayer> {
    layers: Vec<L>,
    activations: ActivationStore<L::Cache>,
    /// What goes into each layer: kept even where activations are recomputed, which starts from it.
    pub(super) layer_inputs: Vec<Tensor>,
    /// What comes out of the last layer, `[sequences, width]`.
    pub(super) output: Tensor,
    pub(super) scratch: TransformerScratch,
}

/// What decides how much memory a stack reserves.
#[derive(Clone, Copy)]
pub(super) struct StackShape {
    pub(super) layers: usize,
    pub(super) attention: Attention,
    /// Width inside the feed-forward network.
    pub(super) hidden: usize,
    pub(super) capacity: TowerCapacity,
}

impl<L: TransformerLayer> TransformerStack<L> {
    /// Declares the layers in order, each as a parameter range of its own. The last one puts out the
    /// first token of a sequence alone: the towers read no other.
    pub(super) fn declare_layers(
        layout: &mut ParamLayout,
        param_ranges: &mut ParamRanges,
        shape: StackShape,
        declare: impl Fn(&mut ParamLayout, usize, Pooling) -> L,
    ) -> Self {
        let layers: Vec<_> = (0..shape.layers)
            .map(|index| {
                let pooling = if index + 1 == shape.layers {
                    Pooling::FirstToken
                } else {
                    Pooling::AllTokens
                };

                let layer = declare(layout, index, pooling);
                param_ranges.close_range(layout);
                layer
            })
            .collect();

        Self::with_layers(layout.memory(), layers, shape)
    }

    fn with_layers(memory: &Memory, layers: Vec<L>, shape: StackShape) -> Self {
        let StackShape {
            attention,
            hidden,
            capacity,
            ..
        } = shape;

        // For the longest sequences there may be: a batch of shorter ones uses the front of each array.
        let tokens = capacity.batch * attention.max_tokens;
        let alloc_cache = |layer: &L| {
            let pooled_tokens = match layer.pooling() {
                Pooling::AllTokens => tokens,
                Pooling::FirstToken => capacity.batch,
            };

            let capacity = LayerCapacity {
                tokens,
                pooled_tokens,
            };

            layer.alloc_cache(memory, capacity)
        };

        let alloc_tokens = || memory.alloc_activations(tokens * attention.width);
        Self {
            activations: ActivationStore::new(&layers, capacity.recompute, alloc_cache),
            layer_inputs: layers.iter().map(|_| alloc_tokens()).collect(),
            output: alloc_tokens(),
            scratch: TransformerScratch::new(memory, tokens, hidden, attention),
            layers,
        }
    }

    /// Runs all layers.
    pub(super) fn forward(
        &mut self,
        values: TensorView<'_>,
        sequences: Sequences<'_>,
        dropouts: impl Fn(usize) -> LayerDropouts,
    ) {
        for layer in 0..self.layers.len() {
            self.forward_layer(layer, values, sequences, dropouts(layer));
        }
    }

    /// What went into the first layer in the last forward pass, and what every layer put out, under the
    /// name of the embedding and of the layers.
    pub(super) fn block_outputs(
        &self,
        token_values: usize,
        pooled_values: usize,
        embedding: &str,
        layers: &str,
    ) -> Vec<BlockOutput<'_>> {
        let names = (0..self.layers.len()).map(|layer| format!("{layers}.{layer}"));
        let names = [embedding.to_owned()].into_iter().chain(names);
        let inputs = self.layer_inputs.iter();
        let inputs = inputs.map(|input| input.first_n(token_values));
        let output = self.output.first_n(pooled_values);

        names
            .zip(inputs.chain([output]))
            .map(|(name, values)| BlockOutput { name, values })
            .collect()
    }

    /// Adds to the gradients of the layers' weights, and hands each layer's range to `reducer` as soon as
    /// it is complete; `scratch.gradient` holds the gradient of the output, and then that of the input.
    pub(super) fn backward(
        &mut self,
        params: &mut FlatParams<'_>,
        sequences: Sequences<'_>,
        dropouts: impl Fn(usize) -> LayerDropouts,
        param_ranges: &ParamRanges,
        reducer: &mut dyn GradientReducer,
    ) {
        for layer in (0..self.layers.len()).rev() {
            // The input of every layer is kept, so one layer's forward pass is enough to recompute.
            if self.activations.is_overwritten(layer) {
                self.forward_layer(layer, params.values, sequences, dropouts(layer));
            }

            // Dropout masks are functions of the step, the site and the sample, so they are drawn again, too.
            let input = LayerInput {
                x: self.layer_inputs[layer].view(),
                sequences: sequences.with_pooling(self.layers[layer].pooling()),
                dropouts: dropouts(layer),
            };

            let cache = &*self.activations.cache_mut(layer);
            self.layers[layer].backward(params, input, cache, &mut self.scratch);
            // Range 0 is the embedding.
            reducer.reduce_gradients(&mut params.gradients, param_ranges.part_range(1 + layer));
        }
    }

    fn forward_layer(
        &mut self,
        layer: usize,
        values: TensorView<'_>,
        sequences: Sequences<'_>,
        dropouts: LayerDropouts,
    ) {
        let (inputs, later_inputs) = self.layer_inputs.split_at_mut(layer + 1);
        let input = LayerInput {
            x: inputs[layer].view(),
            sequences: sequences.with_pooling(self.layers[layer].pooling()),
            dropouts,
        };

        let y = later_inputs.first_mut().unwrap_or(&mut self.output);
        let cache = self.activations.cache_mut(layer);
        self.layers[layer].forward(values, input, y.view_mut(), cache, &mut self.scratch);
    }
}
