//! Patch dropout: which patches of each image a tower is given, all of them or in training a random share.

use crate::ops::dropout::Dropout;

/// The dropout site of patches: no layer has this number.
const PATCH_DROPOUT_SITE: u64 = u64::MAX;

/// The visible patches of each image of a batch.
///
/// ```
/// use cnclip_compute::ops::dropout::Dropout;
/// use cnclip_compute::ops::patch_dropout::PatchDropout;
///
/// let mut patches = PatchDropout::new(2, 49);
/// patches.set_masked_percent(50);
/// assert_eq!(patches.sample_patches(2, Dropout::new(1, 2, 0)).len(), 2 * 24);
/// assert_eq!(patches.sample_patches(2, Dropout::NONE).len(), 2 * 49);
/// ```
///
/// # Source
/// FLIP (Li and others, 2022), as the reference's `--mask-ratio`.
#[derive(Debug)]
pub struct PatchDropout {
    patches_per_image: usize,
    masked_percent: u32,
    /// Of each image in rising order.
    visible: Vec<u32>,
    visible_len: usize,
    /// A random number for each patch of an image, whose lower half is the patch.
    draws: Vec<u64>,
}

impl PatchDropout {
    /// Memory for `batch` images.
    pub fn new(batch: usize, patches_per_image: usize) -> Self {
        Self {
            patches_per_image,
            masked_percent: 0,
            visible: vec![0; batch * patches_per_image],
            visible_len: 0,
            draws: vec![0; patches_per_image],
        }
    }

    /// Masks a share of the patches from now on, wherever dropout is active.
    pub fn set_masked_percent(&mut self, percent: u32) {
        self.masked_percent = percent;
    }

    /// Chooses the patches of each image: the same for the same dropout, and all without one.
    pub fn sample_patches(&mut self, images: usize, dropout: Dropout) -> &[u32] {
        let dropout = dropout.at_site(PATCH_DROPOUT_SITE, self.masked_percent as f32 / 100.0);
        let kept = if dropout.is_active() {
            self.visible_per_image()
        } else {
            self.patches_per_image
        };

        self.visible_len = images * kept;
        let all = 0..self.patches_per_image as u32;
        let images = self.visible[..self.visible_len].chunks_exact_mut(kept);
        for (sample, visible) in images.enumerate() {
            if kept < self.patches_per_image {
                // The patches with the smallest random numbers: every subset is as likely as any other.
                for (draw, patch) in self.draws.iter_mut().zip(all.clone()) {
                    // The index in the lower half identifies the patch after the selection, and
                    // makes all draws different.
                    *draw = dropout.random_u64(sample, patch) << 32 | u64::from(patch);
                }

                self.draws.select_nth_unstable(kept);
                visible
                    .iter_mut()
                    .zip(&self.draws)
                    .for_each(|(visible, draw)| *visible = *draw as u32);

                // In rising order: the kernel of position embeddings searches for a patch by halves.
                visible.sort_unstable();
            } else {
                visible
                    .iter_mut()
                    .zip(all.clone())
                    .for_each(|(visible, patch)| *visible = patch);
            }
        }

        self.visible_patches()
    }

    /// Makes these patches the visible ones, in place of random ones.
    ///
    /// # Shapes
    /// `[images, visible patches]`, of each image in rising order
    pub fn set_visible_patches(&mut self, patches: &[u32]) {
        self.visible_len = patches.len();
        self.visible[..patches.len()].copy_from_slice(patches);
    }

    /// What was chosen last.
    ///
    /// # Shapes
    /// `[images, visible patches]`
    pub fn visible_patches(&self) -> &[u32] {
        &self.visible[..self.visible_len]
    }

    /// Rounded down as the reference does, but at least one.
    fn visible_per_image(&self) -> usize {
        let share = 1.0 - f64::from(self.masked_percent) / 100.0;
        ((self.patches_per_image as f64 * share) as usize).max(1)
    }
}
