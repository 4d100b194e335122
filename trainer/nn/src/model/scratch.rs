//! Memory that the blocks of a transformer borrow in turn: gradients in flight, which no block keeps.

use cnclip_compute::ops::attention::Attention;
use cnclip_compute::tensor::{Memory, Tensor};

/// Numbers for one pass through the blocks of a tower.
#[derive(Debug)]
pub(super) struct TransformerScratch {
    /// The gradient on its way through the blocks, [tokens, width].
    pub(super) gradient: Tensor,
    /// Whatever a block needs for a moment, [tokens, width].
    pub(super) narrow: Tensor,
    /// And something else, [tokens, width].
    pub(super) spare: Tensor,
    /// The gradient inside the feed-forward layer, [tokens, hidden].
    pub(super) wide: Tensor,
    /// The gradient of query, key and value, [tokens, 3 · width].
    pub(super) qkv: Tensor,
    /// Attention weights after dropout.
    pub(super) dropped: Tensor,
    /// The gradient of attention scores.
    pub(super) scores: Tensor,
}

impl TransformerScratch {
    /// Memory for so many tokens.
    pub(super) fn new(memory: &Memory, tokens: usize, hidden: usize, attention: Attention) -> Self {
        let array = |row: usize| memory.alloc_activations(tokens * row);
        Self {
            gradient: array(attention.width),
            narrow: array(attention.width),
            spare: array(attention.width),
            wide: array(hidden),
            qkv: array(3 * attention.width),
            dropped: attention.alloc_probabilities(memory, tokens),
            scores: attention.alloc_probabilities(memory, tokens),
        }
    }
}
