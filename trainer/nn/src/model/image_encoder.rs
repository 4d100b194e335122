//! The image tower of a model, of either kind. Decides which of the two computes; knows
//! nothing of texts.

use std::sync::Arc;

use cnclip_crds::model::ImageTower;

use super::resnet::Resnet;
use super::vit::Vit;
use cnclip_compute::collective::{Ranks, Reducer};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patch_dropout::Patches;
use cnclip_compute::ops::patchify::Pixels;
use cnclip_compute::params::{Layout, Params};
use cnclip_compute::tensor::{View, ViewMut};

/// An image tower of either kind.
#[derive(Debug)]
pub(super) enum ImageEncoder {
    Vit(Box<Vit>, Patches),
    Resnet(Box<Resnet>),
}

impl ImageEncoder {
    pub(super) fn declare(
        layout: &mut Layout,
        tower: &ImageTower,
        features: usize,
        (batch, recompute): (usize, bool),
    ) -> Self {
        let side = tower.resolution as usize;
        if let Some(sizes) = &tower.resnet {
            let resnet = Resnet::declare(layout, sizes, (side, features), batch);
            return Self::Resnet(Box::new(resnet));
        }

        #[expect(
            clippy::expect_used,
            reason = "the contract admits exactly one of the two kinds"
        )]
        let sizes = tower.vit.as_ref().expect("an image tower of a known kind");

        let vit = Vit::declare(layout, sizes, (side, features), (batch, recompute));
        let patches = Patches::new(batch, vit.patches());
        Self::Vit(Box::new(vit), patches)
    }

    /// How many pictures these are.
    pub(super) fn count(&self, pixels: Pixels<'_>) -> usize {
        match self {
            Self::Vit(vit, _) => pixels.len() / vit.picture(),
            Self::Resnet(resnet) => pixels.len() / resnet.picture(),
        }
    }

    /// Writes features; `training` decides what batch normalisation does, `dropout` which patches
    /// are seen.
    pub(super) fn forward(
        &mut self,
        params: &mut Params,
        pixels: Pixels<'_>,
        (training, dropout): (bool, Dropout),
        features: ViewMut<'_>,
    ) {
        match self {
            Self::Vit(vit, patches) => {
                let seen = patches.choose(pixels.len() / vit.picture(), dropout);
                vit.forward(params.values.view(), (pixels, seen), features);
            }
            Self::Resnet(resnet) => {
                let given = (params.values.view(), params.state.view_mut());
                resnet.forward(given, pixels, training, features);
            }
        }
    }

    /// Adds to the gradients of the weights, and hands them on.
    pub(super) fn backward(
        &mut self,
        params: &mut Params,
        dfeatures: View<'_>,
        reducer: &mut dyn Reducer,
    ) {
        let values = params.values.view();
        let mut gradients = params.gradients.view_mut();
        match self {
            Self::Vit(vit, patches) => {
                let given = (values, &mut gradients);
                vit.backward(given, patches.seen(), (dfeatures, reducer));
            }
            Self::Resnet(resnet) => {
                resnet.backward((values, &mut gradients), dfeatures, reducer);
            }
        }
    }

    /// Batch normalisation takes the statistics of all ranks, where there is any.
    pub(super) fn synchronize_batch_norm(&mut self, ranks: Arc<dyn Ranks>) {
        if let Self::Resnet(resnet) = self {
            resnet.synchronize(ranks);
        }
    }

    /// Leaves out a share of each picture's patches in training, where there are any.
    pub(super) fn mask_patches(&mut self, percent: u32) {
        if let Self::Vit(_, patches) = self {
            patches.mask(percent);
        }
    }
}
