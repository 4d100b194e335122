//! Memory that the blocks of a transformer borrow in turn: gradients in flight, which no block keeps.

use cnclip_compute::ops::attention::Attention;
use cnclip_compute::tensor::{Array, Memory};

/// Numbers for one pass through the blocks of a tower.
#[derive(Debug)]
pub(super) struct Scratch {
    /// The gradient on its way through the blocks, [tokens, width].
    pub(super) gradient: Array,
    /// Whatever a block needs for a moment, [tokens, width].
    pub(super) narrow: Array,
    /// And something else, [tokens, width].
    pub(super) spare: Array,
    /// The gradient inside the feed-forward layer, [tokens, hidden].
    pub(super) wide: Array,
    /// The gradient of query, key and value, [tokens, 3 · width].
    pub(super) qkv: Array,
    /// Attention weights after dropout.
    pub(super) dropped: Array,
    /// The gradient of attention scores.
    pub(super) scores: Array,
}

impl Scratch {
    /// Memory for so many tokens.
    pub(super) fn new(memory: &Memory, tokens: usize, hidden: usize, attention: Attention) -> Self {
        let array = |row: usize| memory.array(tokens * row);
        Self {
            gradient: array(attention.width),
            narrow: array(attention.width),
            spare: array(attention.width),
            wide: array(hidden),
            qkv: array(3 * attention.width),
            dropped: attention.reserve(memory, tokens),
            scores: attention.reserve(memory, tokens),
        }
    }
}
