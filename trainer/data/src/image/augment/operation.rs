//! The ten operations of AutoAugment's policy for ImageNet, each to the bit of Pillow and timm.

use super::affine;
use crate::image::Rgb;

/// An operation on a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AugmentOp {
    AutoContrast,
    Color,
    Contrast,
    Equalize,
    Invert,
    Posterize,
    Rotate,
    Sharpness,
    ShearX,
    Solarize,
}

impl AugmentOp {
    /// Whether half of its uses go the other way.
    pub(super) fn is_signed(self) -> bool {
        matches!(self, Self::Rotate | Self::ShearX)
    }

    /// Applies it with a level of -10 to 10, on which not every operation depends.
    pub(super) fn apply_level(self, square: &mut Vec<Rgb>, side: usize, level: i32) {
        let strength = f64::from(level) / 10.0;
        // timm maps levels of 0 to 10 to factors of 0.1 to 1.9; Pillow blends in single precision.
        let factor = (strength * 1.8 + 0.1) as f32;
        match self {
            Self::AutoContrast => map_channels(square, autocontrast_table),
            Self::Equalize => map_channels(square, equalize_table),
            Self::Invert => map_levels(square, |level| !level),
            Self::Posterize => {
                // timm keeps at least four bits.
                let dropped = 8 - ((strength * 4.0) as u32 + 4);
                map_levels(square, |level| level >> dropped << dropped);
            }
            Self::Solarize => {
                let threshold = (strength * 256.0) as u32;
                map_levels(square, |level| {
                    if u32::from(level) < threshold {
                        level
                    } else {
                        !level
                    }
                });
            }
            Self::Color => blend_pixels(square, factor, |pixel| [pixel_luma(pixel); 3]),
            Self::Contrast => {
                let mean = mean_luma(square);
                blend_pixels(square, factor, |_| [mean; 3]);
            }
            Self::Sharpness => {
                let smooth = smooth_pixels(square, side);
                let mut smooth = smooth.into_iter();
                blend_pixels(square, factor, |pixel| smooth.next().unwrap_or(pixel));
            }
            Self::Rotate => {
                let matrix = affine::rotation_matrix(strength * 30.0, side);
                *square = affine::affine_transform(square, side, matrix);
            }
            Self::ShearX => {
                let matrix = affine::shear_x_matrix(strength * 0.3);
                *square = affine::affine_transform(square, side, matrix);
            }
        }
    }
}

fn map_levels(square: &mut [Rgb], change: impl Fn(u8) -> u8) {
    square
        .as_flattened_mut()
        .iter_mut()
        .for_each(|level| *level = change(*level));
}

/// Changes each channel by a table made from its own histogram; a channel without one stays as it is.
fn map_channels(square: &mut [Rgb], table: fn(&[usize; 256]) -> Option<[u8; 256]>) {
    for channel in 0..3 {
        let mut histogram = [0; 256];
        square
            .iter()
            .for_each(|pixel| histogram[usize::from(pixel[channel])] += 1);

        let Some(table) = table(&histogram) else {
            continue;
        };

        square
            .iter_mut()
            .for_each(|pixel| pixel[channel] = table[usize::from(pixel[channel])]);
    }
}

/// The darkest level goes to 0, the brightest to 255.
fn autocontrast_table(histogram: &[usize; 256]) -> Option<[u8; 256]> {
    let low = histogram.iter().position(|&count| count > 0)?;
    let high = histogram.iter().rposition(|&count| count > 0)?;
    let scale = if high > low {
        255.0 / (high - low) as f64
    } else {
        return None;
    };

    // Scale and offset in double precision and a cast, as `ImageOps.autocontrast` does: integers would round
    // some levels differently.
    let offset = -(low as f64) * scale;
    Some(std::array::from_fn(|level| {
        (level as f64 * scale + offset) as u8
    }))
}

/// Every level gets its share of 0 to 255 by how many pixels are darker.
fn equalize_table(histogram: &[usize; 256]) -> Option<[u8; 256]> {
    // The brightest level that occurs is left out of the step, as in `ImageOps.equalize`, so that it lands on 255.
    let brightest = *histogram.iter().rfind(|&&count| count > 0)?;
    let step = (histogram.iter().sum::<usize>() - brightest) / 255;
    if step == 0 {
        return None;
    }

    // From half a step, so that the division below rounds.
    let mut darker = step / 2;
    Some(histogram.map(|count| {
        let level = (darker / step).min(255) as u8;
        darker += count;
        level
    }))
}

/// Away from (factor above 1) or towards (below 1) another version of each pixel, cut to a level.
fn blend_pixels(square: &mut [Rgb], factor: f32, mut other: impl FnMut(Rgb) -> Rgb) {
    for pixel in square {
        let other = other(*pixel);
        for (level, from) in pixel.iter_mut().zip(other) {
            let from = f32::from(from);
            let to = f32::from(*level);
            *level = (from + factor * (to - from)) as u8;
        }
    }
}

/// ITU-R 601 in 16 bits of fraction, rounded.
fn pixel_luma(pixel: Rgb) -> u8 {
    let [red, green, blue] = pixel;
    // 0.299, 0.587 and 0.114 times 2¹⁶, which add up to 2¹⁶ exactly: white stays white.
    let sum = u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471;
    ((sum + 0x8000) >> 16) as u8
}

fn mean_luma(square: &[Rgb]) -> u8 {
    let sum: u64 = square
        .iter()
        .map(|&pixel| u64::from(pixel_luma(pixel)))
        .sum();
    (sum as f64 / square.len() as f64 + 0.5) as u8
}

/// Each pixel five times and its eight neighbours, over 13; the border is left as it is.
fn smooth_pixels(square: &[Rgb], side: usize) -> Vec<Rgb> {
    let mut smooth = square.to_vec();
    let rows = square.windows(3 * side).step_by(side);
    for (target, rows) in smooth.chunks_exact_mut(side).skip(1).zip(rows) {
        let levels = rows.as_flattened();
        let (above, levels) = levels.split_at(3 * side);
        let (here, below) = levels.split_at(3 * side);
        let target = target.as_flattened_mut();

        for at in 3..3 * side - 3 {
            let three = |row: &[u8]| {
                let levels = [row[at - 3], row[at], row[at + 3]];
                levels.map(u32::from)
            };

            let nine = [above, here, below].map(three);
            let all: u32 = nine.as_flattened().iter().sum();
            // The middle counts five times.
            let sum = all + 4 * u32::from(here[at]);
            // Rounded division by 13: doubled, because half of 13 is no whole number.
            target[at] = ((2 * sum + 13) / 26) as u8;
        }
    }

    smooth
}
