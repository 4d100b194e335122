//! Varies a picture as the reference's training does, as a pure function of picture and key.
//!
//! The distributions are the reference's; the draws are not Python's, so no single picture can be
//! compared with a run of it. No generator is carried from one picture to the next.

mod affine;
mod draws;
mod operation;
mod policy;

#[cfg(test)]
mod tests;

use cnclip_crds::stage::Augmentation;

use super::decode::Picture;
use super::preprocess::Rgb;
use super::resize::Region;
use draws::Draws;

/// Share of the picture's area that a crop keeps.
const AREA: (f64, f64) = (0.9, 1.0);
/// Width over height of a crop.
const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// Crops drawn before the middle of the picture is taken.
const ATTEMPTS: usize = 10;

/// What a picture's variation is drawn from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Key {
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
pub fn augment(picture: &Picture, side: usize, how: Augmentation, key: Key) -> Vec<Rgb> {
    if how == Augmentation::None {
        return picture.squashed(picture.whole(), side);
    }

    let mut draws = Draws::new(key);
    let mut square = picture.squashed(crop(picture.width, picture.height, &mut draws), side);
    if draws.happens(0.5) {
        mirror(&mut square, side);
    }

    if how == Augmentation::AutoAugment {
        policy::apply(&mut square, side, &mut draws);
    }

    square
}

fn mirror(square: &mut [Rgb], side: usize) {
    square.chunks_exact_mut(side).for_each(<[Rgb]>::reverse);
}

/// Draws an area and an aspect until they fit.
fn crop(width: usize, height: usize, draws: &mut Draws) -> Region {
    let area = (width * height) as f64;
    for _ in 0..ATTEMPTS {
        let area = draws.between(AREA.0, AREA.1) * area;
        let aspect = draws.between(ASPECT.0.ln(), ASPECT.1.ln()).exp();
        let w = rounded((area * aspect).sqrt());
        let h = rounded((area / aspect).sqrt());

        if w <= width && h <= height {
            let top = draws.below(height - h + 1);
            let left = draws.below(width - w + 1);
            return Region {
                left,
                top,
                width: w,
                height: h,
            };
        }
    }

    middle(width, height)
}

/// The largest region in the middle that is neither too tall nor too wide.
fn middle(width: usize, height: usize) -> Region {
    let aspect = width as f64 / height as f64;
    let (w, h) = if aspect < ASPECT.0 {
        (width, rounded(width as f64 / ASPECT.0))
    } else if aspect > ASPECT.1 {
        (rounded(height as f64 * ASPECT.1), height)
    } else {
        (width, height)
    };

    Region {
        left: (width - w) / 2,
        top: (height - h) / 2,
        width: w,
        height: h,
    }
}

fn rounded(length: f64) -> usize {
    length.round_ties_even() as usize
}
