//! Memory that the layers of a transformer use in turn: gradients in flight, which no layer keeps.

use cnclip_compute::ops::attention::Attention;
use cnclip_compute::tensor::{Memory, Tensor};

/// Scratch memory for one pass through the layers of a tower.
#[derive(Debug)]
pub(crate) struct TransformerScratch {
    /// The gradient on its way from layer to layer, `[tokens, width]`.
    pub(crate) gradient: Tensor,
    /// Gradients inside a layer, `[tokens, width]`.
    pub(crate) branch: Tensor,
    /// A copy after dropout or pooling, `[tokens, width]`.
    pub(crate) dropped_out: Tensor,
    /// The gradient inside the feed-forward network, `[tokens, hidden]`.
    pub(crate) hidden: Tensor,
    pub(crate) attention: AttentionScratch,
}

/// Scratch memory of self-attention.
#[derive(Debug)]
pub(crate) struct AttentionScratch {
    /// The gradient of query, key and value, `[tokens, 3 · width]`.
    pub(super) dqkv: Tensor,
    /// Attention probabilities after dropout.
    pub(super) dropped_probabilities: Tensor,
    /// The gradient of attention scores.
    pub(super) dscores: Tensor,
}

impl TransformerScratch {
    /// Memory for a number of tokens.
    pub(super) fn new(memory: &Memory, tokens: usize, hidden: usize, attention: Attention) -> Self {
        let alloc = |row: usize| memory.alloc_activations(tokens * row);
        let probabilities = || attention.alloc_probabilities(memory, tokens);
        Self {
            gradient: alloc(attention.width),
            branch: alloc(attention.width),
            dropped_out: alloc(attention.width),
            hidden: alloc(hidden),
            attention: AttentionScratch {
                dqkv: alloc(3 * attention.width),
                dropped_probabilities: probabilities(),
                dscores: probabilities(),
            },
        }
    }
}
