//! The sizes of a vision transformer.

use cnclip_crds::model::VitConfig;

/// The sizes of a vision transformer.
#[derive(Clone, Copy)]
pub(super) struct VitShape {
    pub(super) side: usize,
    pub(super) patch: usize,
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) layers: usize,
}

impl VitShape {
    pub(super) fn new(config: &VitConfig, side: usize) -> Self {
        let width = config.width as usize;
        Self {
            side,
            patch: config.patch_size as usize,
            width,
            heads: width / config.head_width as usize,
            layers: config.layers as usize,
        }
    }

    /// Tokens of one image: the class token and one for each patch.
    pub(super) fn tokens_per_image(&self) -> usize {
        1 + (self.side / self.patch).pow(2)
    }

    pub(super) fn values_per_patch(&self) -> usize {
        3 * self.patch * self.patch
    }
}
