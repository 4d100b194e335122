//! Varies a picture as the reference's training does, as a pure function of picture and key.
//!
//! The distributions are the reference's; the draws are not Python's, so no single picture can be
//! compared with a run of it. No generator is carried from one picture to the next.

mod affine;
mod operation;
mod policy;
mod rng;

#[cfg(test)]
mod tests;

use cnclip_crds::stage::Augmentation;

use super::Rgb;
use super::decode::DecodedImage;
use super::resize::PixelRegion;
use rng::AugmentRng;

/// Share of the picture's area that a crop keeps.
const CROP_AREA: (f64, f64) = (0.9, 1.0);
/// Width over height of a crop.
const CROP_ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// Crops drawn before the middle of the picture is taken.
const MAX_CROP_ATTEMPTS: usize = 10;

/// What a picture's variation is drawn from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct AugmentKey {
    /// Of the run.
    pub seed: u64,
    /// The optimizer step that the picture is for.
    pub step: u64,
    /// Its place in the global batch.
    pub sample: u64,
}

/// The picture as a square, varied.
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
    picture: &DecodedImage,
    side: usize,
    how: Augmentation,
    key: AugmentKey,
) -> Vec<Rgb> {
    if how == Augmentation::None {
        return picture.resize_to_square(picture.full_region(), side);
    }

    let mut draws = AugmentRng::new(key);
    let mut square = picture.resize_to_square(
        random_crop_region(picture.width, picture.height, &mut draws),
        side,
    );
    if draws.random_bool(0.5) {
        flip_horizontal(&mut square, side);
    }

    if how == Augmentation::AutoAugment {
        policy::apply_policy(&mut square, side, &mut draws);
    }

    square
}

fn flip_horizontal(square: &mut [Rgb], side: usize) {
    square.chunks_exact_mut(side).for_each(<[Rgb]>::reverse);
}

/// Draws an area and an aspect until they fit.
fn random_crop_region(width: usize, height: usize, draws: &mut AugmentRng) -> PixelRegion {
    let area = (width * height) as f64;
    for _ in 0..MAX_CROP_ATTEMPTS {
        let area = draws.random_range(CROP_AREA.0, CROP_AREA.1) * area;
        let aspect = draws
            .random_range(CROP_ASPECT.0.ln(), CROP_ASPECT.1.ln())
            .exp();
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

/// The largest region in the middle that is neither too tall nor too wide.
fn center_crop_region(width: usize, height: usize) -> PixelRegion {
    let aspect = width as f64 / height as f64;
    let (w, h) = if aspect < CROP_ASPECT.0 {
        (width, round_length(width as f64 / CROP_ASPECT.0))
    } else if aspect > CROP_ASPECT.1 {
        (round_length(height as f64 * CROP_ASPECT.1), height)
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

fn round_length(length: f64) -> usize {
    length.round_ties_even() as usize
}
