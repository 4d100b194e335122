//! The towers that the model is made of: forward and backward written out layer by layer over flat parameters.

pub mod bert;
mod param_ranges;
pub mod resnet;
mod sequence_buffers;
mod transformer;
pub mod vit;

use cnclip_compute::gemm::Accumulate;
use cnclip_compute::tensor::{TensorView, TensorViewMut};

/// The largest batch that a tower reserves memory for.
#[derive(Clone, Copy, Debug)]
pub struct TowerCapacity {
    /// Samples of a batch.
    pub batch: usize,
    /// Whether layers share one activation cache, so that the backward pass computes activations again
    /// (activation checkpointing). A ResNet keeps its own all the same, as the reference does.
    pub recompute: bool,
}

/// The flat parameters of a model as a backward pass sees them.
#[derive(Debug)]
pub struct FlatParams<'a> {
    /// The weights.
    pub values: TensorView<'a>,
    /// Their gradients, which every backward pass adds to: gradients of micro-batches accumulate.
    pub gradients: TensorViewMut<'a>,
}

/// The output of one block of a tower in the last forward pass, for comparison with another
/// implementation.
#[derive(Debug)]
pub struct BlockOutput<'a> {
    /// The name that the block's parameters begin with.
    pub name: String,
    /// Its output.
    ///
    /// # Shapes
    /// [tokens of the batch, width] in a transformer, but [batch, width] of its last block, which puts
    /// out the pooled token alone; [batch, side, side, channels] in a ResNet.
    pub values: TensorView<'a>,
}

/// Where the gradient of a layer's input goes.
struct InputGradient<'a> {
    values: TensorViewMut<'a>,
    accumulate: Accumulate,
}

impl<'a> InputGradient<'a> {
    /// Overwrites what is there.
    fn replace(values: TensorViewMut<'a>) -> Self {
        Self {
            values,
            accumulate: Accumulate::No,
        }
    }

    /// Adds to the gradient of another branch.
    fn add_to(values: TensorViewMut<'a>) -> Self {
        Self {
            values,
            accumulate: Accumulate::Yes,
        }
    }
}
