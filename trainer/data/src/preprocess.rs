//! From the bytes of a picture to the planes that a tower is given, as the reference's transform.
//!
//! It never normalises in place: batches travel as bytes, and [`normalise`] says what a byte is worth.

use cnclip_crds::stage::Augmentation;

use super::augment::{Key, augment};
use super::decode::{DecodeError, Picture, Pixels, decode};
use super::resize::{Region, View};

#[cfg(test)]
mod tests;

/// An RGB pixel.
pub type Rgb = [u8; 3];

/// Means of the three channels, 1 being the brightest level.
pub const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviations of the three channels.
pub const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Decodes, augments and squashes a picture into its place in a batch.
///
/// # Shapes
/// `planes` is `[3, side, side]`.
///
/// # Errors
/// Bytes that [`decode`] refuses; `planes` is untouched then.
///
/// # Guarantees
/// The same bytes, side, augmentation and key give the same planes.
pub fn preprocess(
    bytes: &[u8],
    side: usize,
    augmentation: Augmentation,
    key: Key,
    planes: &mut [u8],
) -> Result<(), DecodeError> {
    vary(&decode(bytes)?, side, augmentation, key, planes);
    Ok(())
}

/// A picture as scoring sees it: decoded and squashed.
///
/// # Shapes
/// `[3, side, side]`
///
/// # Errors
/// Those of [`preprocess`].
pub fn plain(bytes: &[u8], side: usize) -> Result<Vec<u8>, DecodeError> {
    let mut planes = vec![0; 3 * side * side];
    preprocess(bytes, side, Augmentation::None, Key::default(), &mut planes)?;
    Ok(planes)
}

/// Augments and squashes a decoded picture into its place in a batch.
///
/// # Shapes
/// `planes` is `[3, side, side]`.
///
/// # Guarantees
/// As [`preprocess`].
pub fn vary(
    picture: &Picture,
    side: usize,
    augmentation: Augmentation,
    key: Key,
    planes: &mut [u8],
) {
    let square = augment(picture, side, augmentation, key);
    for (channel, plane) in planes.chunks_exact_mut(side * side).enumerate() {
        for (level, pixel) in plane.iter_mut().zip(&square) {
            *level = pixel[channel];
        }
    }
}

/// What a tower reads in place of a level of 0 to 255.
///
/// # Shapes
/// `planes` is `[.., 3, side, side]`, `values` the same.
pub fn normalise(planes: &[u8], side: usize, values: &mut [f32]) {
    let area = side * side;
    let channels = (0..3).cycle();
    for ((plane, values), c) in planes
        .chunks(area)
        .zip(values.chunks_mut(area))
        .zip(channels)
    {
        for (value, &level) in values.iter_mut().zip(plane) {
            *value = (f32::from(level) / 255.0 - MEAN[c]) / DEVIATION[c];
        }
    }
}

impl Picture {
    /// All of it.
    pub fn whole(&self) -> Region {
        Region {
            left: 0,
            top: 0,
            width: self.width,
            height: self.height,
        }
    }

    /// A region as a square of RGB pixels: resized in the colours of the file, converted after.
    ///
    /// # Shapes
    /// `[side, side]` pixels.
    pub fn squashed(&self, region: Region, side: usize) -> Vec<Rgb> {
        match &self.pixels {
            Pixels::Rgb(pixels) => self.view::<3>(pixels, region).bicubic(side),
            Pixels::Listed(pixels) => self.view::<3>(pixels, region).nearest(side),
            Pixels::Gray(pixels) => {
                let square = self.view(pixels, region).bicubic(side);
                square.into_iter().map(|[level]| [level; 3]).collect()
            }
            Pixels::GrayAlpha(pixels) => {
                let square = blended(self.view(pixels, region), side);
                square.into_iter().map(|[level, _]| [level; 3]).collect()
            }
            Pixels::Rgba(pixels) => {
                let square = blended(self.view(pixels, region), side);
                square.into_iter().map(|[r, g, b, _]| [r, g, b]).collect()
            }
            Pixels::Cmyk(pixels) => {
                let square = self.view(pixels, region).bicubic(side);
                square.into_iter().map(from_inks).collect()
            }
            Pixels::Gray16(levels) => {
                let view = View {
                    pixels: levels.as_chunks().0,
                    pitch: self.width,
                    region,
                };

                view.bicubic(side)
                    .into_iter()
                    .map(|level| [level.min(255) as u8; 3])
                    .collect()
            }
        }
    }

    fn view<'a, const C: usize>(&self, pixels: &'a [u8], region: Region) -> View<'a, u8, C> {
        View {
            pixels: pixels.as_chunks().0,
            pitch: self.width,
            region,
        }
    }
}

/// Resizes colours weighted with their alpha, which comes last. What fits already is left alone.
fn blended<const C: usize>(view: View<'_, u8, C>, side: usize) -> Vec<[u8; C]> {
    let Region { width, height, .. } = view.region;
    let mut pixels = view.copied();
    if (width, height) == (side, side) {
        return pixels;
    }

    pixels.iter_mut().for_each(|pixel| weigh(pixel, scaled));
    let region = Region {
        left: 0,
        top: 0,
        width,
        height,
    };

    let mut square = View {
        pixels: &pixels,
        pitch: width,
        region,
    }
    .bicubic(side);

    square.iter_mut().for_each(|pixel| weigh(pixel, unscaled));
    square
}

fn weigh<const C: usize>(pixel: &mut [u8; C], change: fn(u8, u8) -> u8) {
    let [colours @ .., alpha] = pixel.as_mut_slice() else {
        return;
    };

    colours
        .iter_mut()
        .for_each(|level| *level = change(*level, *alpha));
}

/// `level · share / 255`, rounded.
fn scaled(level: u8, share: u8) -> u8 {
    let product = u32::from(level) * u32::from(share) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// The inverse of [`scaled`], as far as it has one.
fn unscaled(level: u8, share: u8) -> u8 {
    match share {
        0 | 255 => level,
        _ => (u32::from(level) * 255 / u32::from(share)).min(255) as u8,
    }
}

pub(super) fn from_inks([cyan, magenta, yellow, black]: [u8; 4]) -> Rgb {
    let light = 255 - black;
    [cyan, magenta, yellow].map(|ink| light.saturating_sub(scaled(ink, light)))
}
