//! The towers that the model is made of: forward and backward written out layer by layer over flat parameters.

pub mod bert;
mod param_ranges;
pub mod resnet;
mod sequence_buffers;
mod transformer;
pub mod vit;

use std::fmt::Debug;
use std::sync::Arc;

use cnclip_compute::collective::{Collective, GradientReducer};
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::{ParamLayout, Params};
use cnclip_compute::tensor::{TensorView, TensorViewMut};
use cnclip_crds::model::ImageTower;

use resnet::ModifiedResnet;
use vit::VisionTransformer;

/// An image tower of either kind: [`VisionTransformer`] or [`ModifiedResnet`].
///
/// # Shapes
/// Pixels `[batch, 3, side, side]` in, features `[batch, features]` out.
pub trait ImageEncoder: Debug + Send + Sync {
    /// Values of one image.
    fn values_per_image(&self) -> usize;

    /// The output of the embedding and of every block in the last forward pass, of `batch` images.
    fn block_outputs(&self, batch: usize) -> Vec<BlockOutput<'_>>;

    /// Writes the features of a batch; `training` decides what batch normalisation does, `dropout` which
    /// patches are visible.
    fn forward(
        &mut self,
        params: &mut Params,
        pixels: PixelBatch<'_>,
        training: bool,
        dropout: Dropout,
        features: TensorViewMut<'_>,
    );

    /// Adds to the gradients of the weights, given that of the features; hands each part to `reducer` as
    /// soon as it is complete. To be called after a forward pass in training.
    fn backward(
        &mut self,
        params: &mut FlatParams<'_>,
        dfeatures: TensorView<'_>,
        reducer: &mut dyn GradientReducer,
    );

    /// From now on batch normalisation in training takes the statistics of all ranks' batches. A
    /// transformer has none.
    fn synchronize_batch_norm(&mut self, _ranks: Arc<dyn Collective>) {}

    /// Leaves out a share of each image's patches in training from now on. A ResNet has none.
    fn mask_patches(&mut self, _percent: u32) {}
}

/// Declares the weights of the image tower that `tower` describes, with memory for a batch of images.
pub(super) fn declare_image_encoder(
    layout: &mut ParamLayout,
    tower: &ImageTower,
    features: usize,
    capacity: TowerCapacity,
) -> Box<dyn ImageEncoder> {
    let side = tower.resolution as usize;
    if let Some(config) = &tower.resnet {
        let batch = capacity.batch;
        let resnet = ModifiedResnet::declare_params(layout, config, side, features, batch);
        return Box::new(resnet);
    }

    #[expect(
        clippy::expect_used,
        reason = "the contract admits exactly one of the two kinds"
    )]
    let config = tower.vit.as_ref().expect("an image tower of a known kind");
    let vit = VisionTransformer::declare_params(layout, config, side, features, capacity);
    Box::new(vit)
}

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
    /// `[tokens of the batch, width]` in a transformer, but `[batch, width]` of its last block, which puts
    /// out the pooled token alone; `[batch, side, side, channels]` in a ResNet.
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
