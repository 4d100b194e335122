//! Which patches of each picture a tower sees: all of them, or while training a random share.

use crate::ops::dropout::Dropout;

/// The place at which patches are dropped: no other has this number.
const PATCH_DROPOUT_SITE: u64 = u64::MAX;

/// The patches that are seen of each picture of a batch.
///
/// # Source
/// FLIP (Li and others, 2022), as the reference's `--mask-ratio`.
#[derive(Debug)]
pub struct PatchDropout {
    patches_per_image: usize,
    masked_percent: u32,
    /// Of each picture in rising order.
    visible: Vec<u32>,
    visible_len: usize,
    /// A random number for each patch of a picture, whose lower half is the patch.
    draws: Vec<u64>,
}

impl PatchDropout {
    /// Memory for so many pictures of so many patches.
    pub fn new(batch: usize, of_picture: usize) -> Self {
        Self {
            patches_per_image: of_picture,
            masked_percent: 0,
            visible: vec![0; batch * of_picture],
            visible_len: 0,
            draws: vec![0; of_picture],
        }
    }

    /// Leaves out a share of the patches from now on, wherever something is dropped.
    pub fn set_masked_percent(&mut self, percent: u32) {
        self.masked_percent = percent;
    }

    /// Chooses the patches of so many pictures: the same for the same dropout, and all without one.
    pub fn sample_patches(&mut self, pictures: usize, dropout: Dropout) -> &[u32] {
        let dropout = dropout.at_site(PATCH_DROPOUT_SITE, self.masked_percent as f32 / 100.0);
        let kept = if dropout.is_active() {
            self.visible_per_image()
        } else {
            self.patches_per_image
        };

        self.visible_len = pictures * kept;
        let all = 0..self.patches_per_image as u32;
        for (sample, seen) in self.visible[..self.visible_len]
            .chunks_exact_mut(kept)
            .enumerate()
        {
            if kept < self.patches_per_image {
                for (draw, patch) in self.draws.iter_mut().zip(all.clone()) {
                    *draw = dropout.random_u64(sample, patch) << 32 | u64::from(patch);
                }

                self.draws.select_nth_unstable(kept);
                seen.iter_mut()
                    .zip(&self.draws)
                    .for_each(|(seen, draw)| *seen = *draw as u32);

                seen.sort_unstable();
            } else {
                seen.iter_mut()
                    .zip(all.clone())
                    .for_each(|(seen, patch)| *seen = patch);
            }
        }

        self.visible_patches()
    }

    /// What was chosen last.
    ///
    /// # Shapes
    /// [pictures, seen]
    pub fn visible_patches(&self) -> &[u32] {
        &self.visible[..self.visible_len]
    }

    /// Rounded as the reference rounds, but never none.
    fn visible_per_image(&self) -> usize {
        let share = 1.0 - f64::from(self.masked_percent) / 100.0;
        ((self.patches_per_image as f64 * share) as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(percent: u32, dropout: Dropout) -> Vec<u32> {
        let mut patches = PatchDropout::new(500, 49);
        patches.set_masked_percent(percent);
        patches.sample_patches(500, dropout).to_vec()
    }

    #[test]
    fn every_patch_is_seen_where_nothing_is_dropped() {
        for (percent, dropout) in [(0, Dropout::new(1, 2, 0)), (50, Dropout::NONE)] {
            let all: Vec<u32> = (0..49).collect();
            assert!(chosen(percent, dropout).chunks(49).all(|seen| seen == all));
        }
    }

    #[test]
    fn as_many_are_seen_as_the_reference_keeps_each_as_often_as_any_other() {
        for (percent, kept) in [(1, 48), (50, 24), (75, 12), (90, 4), (99, 1)] {
            let seen = chosen(percent, Dropout::new(1, 2, 0));
            assert_eq!(seen.len(), 500 * kept);
            assert!(
                seen.chunks(kept)
                    .all(|seen| seen.is_sorted_by(|a, b| a < b))
            );

            for patch in 0..49 {
                let times = seen.iter().filter(|&&seen| seen == patch).count() as f64;
                let mean = 500.0 * kept as f64 / 49.0;
                let share = kept as f64 / 49.0;
                let deviation = (mean * (1.0 - share)).sqrt();
                assert!(
                    (times - mean).abs() < 5.0 * deviation,
                    "{percent}, {patch}: {times}"
                );
            }
        }
    }

    #[test]
    fn a_sample_sees_the_same_in_any_batch_and_other_patches_in_another_step() {
        let whole = chosen(50, Dropout::new(1, 2, 0));
        assert_eq!(
            whole[24 * 3..],
            chosen(50, Dropout::new(1, 2, 3))[..24 * 497]
        );

        assert_ne!(whole, chosen(50, Dropout::new(1, 3, 0)));
    }
}
