//! The activations around the blocks of a vision transformer.

use cnclip_compute::ops::layer_norm::MOMENTS_PER_ROW;
use cnclip_compute::tensor::{Memory, Tensor};

use super::shape::VitShape;

/// Activations around the blocks that the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(super) struct VitCache {
    pub(super) patches: Tensor,
    pub(super) embedded: Tensor,
    pub(super) moments_pre: Tensor,
    pub(super) moments_post: Tensor,
    pub(super) pooled: Tensor,
}

impl VitCache {
    pub(super) fn new(memory: &Memory, shape: &VitShape, batch: usize) -> Self {
        let tokens = batch * shape.tokens_per_image();
        let width = shape.width;
        Self {
            patches: memory.alloc_activations(tokens * shape.values_per_patch()),
            embedded: memory.alloc_activations(tokens * width),
            moments_pre: memory.alloc_f32(tokens * MOMENTS_PER_ROW),
            moments_post: memory.alloc_f32(batch * MOMENTS_PER_ROW),
            pooled: memory.alloc_activations(batch * width),
        }
    }
}
