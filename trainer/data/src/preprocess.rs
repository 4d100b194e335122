//! From the bytes of a picture to the planes that a tower is given, as the reference's transform.
//!
//! It never normalises in place: batches travel as bytes, and [`normalise`] says what a byte is worth.

use cnclip_crds::stage::Augmentation;

use super::augment::{AugmentKey, augment_image};
use super::decode::{DecodeError, DecodedImage, PixelData, decode_image};
use super::resize::{PixelRegion, PixelView};

#[cfg(test)]
mod tests;

/// An RGB pixel.
pub type Rgb = [u8; 3];

/// Means of the three channels, 1 being the brightest level.
pub const CHANNEL_MEANS: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviations of the three channels.
pub const CHANNEL_STDS: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

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
pub fn preprocess_image(
    bytes: &[u8],
    side: usize,
    augmentation: Augmentation,
    key: AugmentKey,
    planes: &mut [u8],
) -> Result<(), DecodeError> {
    augment_into(&decode_image(bytes)?, side, augmentation, key, planes);
    Ok(())
}

/// A picture as scoring sees it: decoded and squashed.
///
/// # Shapes
/// `[3, side, side]`
///
/// # Errors
/// Those of [`preprocess`].
pub fn preprocess_for_eval(bytes: &[u8], side: usize) -> Result<Vec<u8>, DecodeError> {
    let mut planes = vec![0; 3 * side * side];
    preprocess_image(
        bytes,
        side,
        Augmentation::None,
        AugmentKey::default(),
        &mut planes,
    )?;
    Ok(planes)
}

/// Augments and squashes a decoded picture into its place in a batch.
///
/// # Shapes
/// `planes` is `[3, side, side]`.
///
/// # Guarantees
/// As [`preprocess`].
pub fn augment_into(
    picture: &DecodedImage,
    side: usize,
    augmentation: Augmentation,
    key: AugmentKey,
    planes: &mut [u8],
) {
    let square = augment_image(picture, side, augmentation, key);
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
pub fn normalize_pixels(planes: &[u8], side: usize, values: &mut [f32]) {
    let area = side * side;
    let channels = (0..3).cycle();
    for ((plane, values), c) in planes
        .chunks(area)
        .zip(values.chunks_mut(area))
        .zip(channels)
    {
        for (value, &level) in values.iter_mut().zip(plane) {
            *value = (f32::from(level) / 255.0 - CHANNEL_MEANS[c]) / CHANNEL_STDS[c];
        }
    }
}

impl DecodedImage {
    /// All of it.
    pub fn full_region(&self) -> PixelRegion {
        PixelRegion {
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
    pub fn resize_to_square(&self, region: PixelRegion, side: usize) -> Vec<Rgb> {
        match &self.pixels {
            PixelData::Rgb(pixels) => self.pixel_view::<3>(pixels, region).resize_bicubic(side),
            PixelData::Palette(pixels) => self.pixel_view::<3>(pixels, region).resize_nearest(side),
            PixelData::Gray(pixels) => {
                let square = self.pixel_view(pixels, region).resize_bicubic(side);
                square.into_iter().map(|[level]| [level; 3]).collect()
            }
            PixelData::GrayAlpha(pixels) => {
                let square = resize_premultiplied(self.pixel_view(pixels, region), side);
                square.into_iter().map(|[level, _]| [level; 3]).collect()
            }
            PixelData::Rgba(pixels) => {
                let square = resize_premultiplied(self.pixel_view(pixels, region), side);
                square.into_iter().map(|[r, g, b, _]| [r, g, b]).collect()
            }
            PixelData::Cmyk(pixels) => {
                let square = self.pixel_view(pixels, region).resize_bicubic(side);
                square.into_iter().map(cmyk_to_rgb).collect()
            }
            PixelData::Gray16(levels) => {
                let view = PixelView {
                    pixels: levels.as_chunks().0,
                    row_stride: self.width,
                    region,
                };

                view.resize_bicubic(side)
                    .into_iter()
                    .map(|level| [level.min(255) as u8; 3])
                    .collect()
            }
        }
    }

    fn pixel_view<'a, const C: usize>(
        &self,
        pixels: &'a [u8],
        region: PixelRegion,
    ) -> PixelView<'a, u8, C> {
        PixelView {
            pixels: pixels.as_chunks().0,
            row_stride: self.width,
            region,
        }
    }
}

/// Resizes colours weighted with their alpha, which comes last. What fits already is left alone.
fn resize_premultiplied<const C: usize>(view: PixelView<'_, u8, C>, side: usize) -> Vec<[u8; C]> {
    let PixelRegion { width, height, .. } = view.region;
    let mut pixels = view.to_pixels();
    if (width, height) == (side, side) {
        return pixels;
    }

    pixels
        .iter_mut()
        .for_each(|pixel| map_color_channels(pixel, multiply_alpha));
    let region = PixelRegion {
        left: 0,
        top: 0,
        width,
        height,
    };

    let mut square = PixelView {
        pixels: &pixels,
        row_stride: width,
        region,
    }
    .resize_bicubic(side);

    square
        .iter_mut()
        .for_each(|pixel| map_color_channels(pixel, divide_alpha));
    square
}

fn map_color_channels<const C: usize>(pixel: &mut [u8; C], change: fn(u8, u8) -> u8) {
    let [colours @ .., alpha] = pixel.as_mut_slice() else {
        return;
    };

    colours
        .iter_mut()
        .for_each(|level| *level = change(*level, *alpha));
}

/// `level · share / 255`, rounded.
fn multiply_alpha(level: u8, share: u8) -> u8 {
    let product = u32::from(level) * u32::from(share) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// The inverse of [`scaled`], as far as it has one.
fn divide_alpha(level: u8, share: u8) -> u8 {
    match share {
        0 | 255 => level,
        _ => (u32::from(level) * 255 / u32::from(share)).min(255) as u8,
    }
}

pub(super) fn cmyk_to_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> Rgb {
    let light = 255 - black;
    [cyan, magenta, yellow].map(|ink| light.saturating_sub(multiply_alpha(ink, light)))
}
