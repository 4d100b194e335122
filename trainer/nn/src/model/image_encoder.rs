//! The image tower of a model, of either kind. Decides which of the two computes; knows nothing of texts.

use std::sync::Arc;

use cnclip_compute::collective::{Collective, GradientReducer};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patch_dropout::PatchDropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::{ParamLayout, Params};
use cnclip_compute::tensor::{TensorView, TensorViewMut};
use cnclip_crds::model::ImageTower;

use super::towers::resnet::ModifiedResnet;
use super::towers::vit::VisionTransformer;
use super::towers::{BlockOutput, FlatParams, TowerCapacity};

/// An image tower of either kind.
#[derive(Debug)]
pub(super) enum ImageEncoder {
    // Boxed: towers are large structs of different sizes.
    Vit(Box<VisionTransformer>, PatchDropout),
    Resnet(Box<ModifiedResnet>),
}

impl ImageEncoder {
    pub(super) fn declare_params(
        layout: &mut ParamLayout,
        tower: &ImageTower,
        features: usize,
        capacity: TowerCapacity,
    ) -> Self {
        let side = tower.resolution as usize;
        let batch = capacity.batch;
        if let Some(config) = &tower.resnet {
            let resnet = ModifiedResnet::declare_params(layout, config, side, features, batch);
            return Self::Resnet(Box::new(resnet));
        }

        #[expect(
            clippy::expect_used,
            reason = "the contract admits exactly one of the two kinds"
        )]
        let config = tower.vit.as_ref().expect("an image tower of a known kind");

        let vit = VisionTransformer::declare_params(layout, config, side, features, capacity);
        let patches = PatchDropout::new(batch, vit.patch_count());
        Self::Vit(Box::new(vit), patches)
    }

    /// How many images these are.
    pub(super) fn image_count(&self, pixels: PixelBatch<'_>) -> usize {
        match self {
            Self::Vit(vit, _) => pixels.len() / vit.values_per_image(),
            Self::Resnet(resnet) => pixels.len() / resnet.values_per_image(),
        }
    }

    /// The output of every block in the last forward pass, of `batch` images.
    pub(super) fn block_outputs(&self, batch: usize) -> Vec<BlockOutput<'_>> {
        match self {
            Self::Vit(vit, _) => vit.block_outputs(batch),
            Self::Resnet(resnet) => resnet.block_outputs(batch),
        }
    }

    /// Writes features; `training` decides what batch normalisation does, `dropout` which patches are
    /// visible.
    pub(super) fn forward(
        &mut self,
        params: &mut Params,
        pixels: PixelBatch<'_>,
        training: bool,
        dropout: Dropout,
        features: TensorViewMut<'_>,
    ) {
        let values = params.values.view();
        match self {
            Self::Vit(vit, patches) => {
                let batch = pixels.len() / vit.values_per_image();
                // Without dropout, all of them.
                let visible_patches = patches.sample_patches(batch, dropout);
                vit.forward(values, pixels, visible_patches, features);
            }
            Self::Resnet(resnet) => {
                let buffers = params.buffers.view_mut();
                resnet.forward(values, buffers, pixels, training, features);
            }
        }
    }

    /// Adds to the gradients of the weights, and hands complete parts to `reducer`.
    pub(super) fn backward(
        &mut self,
        params: &mut FlatParams<'_>,
        dfeatures: TensorView<'_>,
        reducer: &mut dyn GradientReducer,
    ) {
        match self {
            Self::Vit(vit, patches) => {
                vit.backward(params, patches.visible_patches(), dfeatures, reducer);
            }
            Self::Resnet(resnet) => resnet.backward(params, dfeatures, reducer),
        }
    }

    /// Batch normalisation takes the statistics of all ranks, where there is any.
    pub(super) fn synchronize_batch_norm(&mut self, ranks: Arc<dyn Collective>) {
        if let Self::Resnet(resnet) = self {
            resnet.synchronize_batch_norm(ranks);
        }
    }

    /// Leaves out a share of each image's patches in training, where there are any.
    pub(super) fn mask_patches(&mut self, percent: u32) {
        if let Self::Vit(_, patches) = self {
            patches.set_masked_percent(percent);
        }
    }
}
