//! Memory that the blocks of a transformer borrow in turn: gradients in flight, which no block keeps.

use crate::ops::attention::Attention;

/// Numbers for one pass through the blocks of a tower.
#[derive(Debug)]
pub(super) struct Scratch {
    /// The gradient on its way through the blocks, [tokens, width].
    pub(super) gradient: Vec<f32>,
    /// Whatever a block needs for a moment, [tokens, width].
    pub(super) narrow: Vec<f32>,
    /// And something else, [tokens, width].
    pub(super) spare: Vec<f32>,
    /// The gradient inside the feed-forward layer, [tokens, hidden].
    pub(super) wide: Vec<f32>,
    /// The gradient of query, key and value, [tokens, 3 · width].
    pub(super) qkv: Vec<f32>,
    /// Attention weights after dropout.
    pub(super) dropped: Vec<f32>,
    /// The gradient of attention scores.
    pub(super) scores: Vec<f32>,
}

impl Scratch {
    /// Memory for so many tokens.
    pub(super) fn new(tokens: usize, hidden: usize, attention: Attention) -> Self {
        let array = |row: usize| vec![0.0; tokens * row];
        Self {
            gradient: array(attention.width),
            narrow: array(attention.width),
            spare: array(attention.width),
            wide: array(hidden),
            qkv: array(3 * attention.width),
            dropped: array(attention.row()),
            scores: array(attention.row()),
        }
    }
}
