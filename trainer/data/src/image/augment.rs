//! Augments an image as the reference's training does, as a pure function of image and key.
//!
//! The distributions are the reference's; the draws are not Python's, so no single image can be
//! compared with a run of it. No generator is carried from one image to the next.

mod affine;
mod operation;
mod policy;
mod rng;

use std::ops::Range;

use super::Rgb;
use super::decode::DecodedImage;
use super::resize::PixelRegion;
use cnclip_crds::stage::Augmentation;
use rng::AugmentRng;

/// Share of the image's area that a crop keeps.
const CROP_AREA: Range<f64> = 0.9..1.0;
/// Width over height of a crop.
const CROP_ASPECT: Range<f64> = 3.0 / 4.0..4.0 / 3.0;
/// Crops drawn before the center of the image is taken.
const MAX_CROP_ATTEMPTS: usize = 10;

/// The seed of one image's augmentation.
///
/// It names the image's place in the run and not the thread or rank that works on it, so that a resumed run,
/// or one with other workers, trains on the same pixels.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct AugmentKey {
    /// Seed of the run.
    pub seed: u64,
    /// The optimizer step that the image is for.
    pub step: u64,
    /// Index of the sample in the global batch.
    pub sample: u64,
}

/// The image as an augmented square.
///
/// # Shapes
/// `[side, side]` pixels.
///
/// # Guarantees
/// Equal arguments give equal pixels, on every machine.
///
/// # Source
/// timm 1.0 `create_transform(scale=(0.9, 1.0), auto_augment="original", interpolation="bicubic")`.
pub fn augment_image(
    image: &DecodedImage,
    side: usize,
    augmentation: Augmentation,
    key: AugmentKey,
) -> Vec<Rgb> {
    if augmentation == Augmentation::None {
        return image.resize_to_square(image.full_region(), side);
    }

    // The order of the draws is part of what a key means: a change of it changes every resumed run.
    let mut draws = AugmentRng::new(key);
    let region = random_crop_region(image.width, image.height, &mut draws);
    let mut square = image.resize_to_square(region, side);
    if draws.random_bool(0.5) {
        flip_horizontal(&mut square, side);
    }

    // Crop, resize, flip, then the policy: the order of timm's transform.
    if augmentation == Augmentation::AutoAugment {
        policy::apply_policy(&mut square, side, &mut draws);
    }

    square
}

fn flip_horizontal(square: &mut [Rgb], side: usize) {
    square.chunks_exact_mut(side).for_each(<[Rgb]>::reverse);
}

/// Draws an area and an aspect until they fit.
fn random_crop_region(width: usize, height: usize, draws: &mut AugmentRng) -> PixelRegion {
    let image_area = (width * height) as f64;
    // Crops that do not fit are drawn again and not clipped, which would prefer the border.
    for _ in 0..MAX_CROP_ATTEMPTS {
        let area = draws.random_range(CROP_AREA.start, CROP_AREA.end) * image_area;
        // Uniform in the logarithm, so that 3:4 is as likely as 4:3.
        let log_aspect = draws.random_range(CROP_ASPECT.start.ln(), CROP_ASPECT.end.ln());
        let aspect = log_aspect.exp();
        let w = round_length((area * aspect).sqrt());
        let h = round_length((area / aspect).sqrt());

        if w <= width && h <= height {
            let top = draws.random_index(height - h + 1);
            let left = draws.random_index(width - w + 1);
            return PixelRegion {
                left,
                top,
                width: w,
                height: h,
            };
        }
    }

    center_crop_region(width, height)
}

/// The largest region in the center that is neither too tall nor too wide.
fn center_crop_region(width: usize, height: usize) -> PixelRegion {
    let aspect = width as f64 / height as f64;
    let (w, h) = if aspect < CROP_ASPECT.start {
        (width, round_length(width as f64 / CROP_ASPECT.start))
    } else if aspect > CROP_ASPECT.end {
        (round_length(height as f64 * CROP_ASPECT.end), height)
    } else {
        (width, height)
    };

    PixelRegion {
        left: (width - w) / 2,
        top: (height - h) / 2,
        width: w,
        height: h,
    }
}

/// Python's `round`, which the reference rounds with: halves go to the even number.
fn round_length(length: f64) -> usize {
    length.round_ties_even() as usize
}

#[cfg(test)]
mod tests;
