//! Resizes a decoded image to a square of RGB pixels as the reference does: in the channels of the file,
//! and converted to RGB only then.

use super::Rgb;
use super::decode::{DecodedImage, PixelData};
use super::resize::{PixelRegion, PixelView};

impl DecodedImage {
    /// The region of the whole image.
    pub fn full_region(&self) -> PixelRegion {
        PixelRegion {
            left: 0,
            top: 0,
            width: self.width,
            height: self.height,
        }
    }

    /// A region as a square of RGB pixels.
    ///
    /// The aspect ratio is not kept. Resizing before the conversion is the reference's order: torchvision resizes
    /// the image as Pillow opened it, and `convert("RGB")` comes after.
    ///
    /// # Shapes
    /// `[side, side]` pixels.
    pub fn resize_to_square(&self, region: PixelRegion, side: usize) -> Vec<Rgb> {
        match &self.pixels {
            PixelData::Rgb(pixels) => self.pixel_view::<3>(pixels, region).resize_bicubic(side),
            // Pillow resizes palettes by the nearest pixel whatever filter is asked for: indices have no mean.
            PixelData::Palette(pixels) => self.pixel_view::<3>(pixels, region).resize_nearest(side),
            PixelData::Gray(pixels) => {
                let square = self.pixel_view(pixels, region).resize_bicubic(side);
                square.into_iter().map(|[level]| [level; 3]).collect()
            }
            // The alpha is dropped in the end and not blended with a background, as in `convert("RGB")`.
            PixelData::GrayAlpha(pixels) => {
                let square = resize_premultiplied(self.pixel_view(pixels, region), side);
                square.into_iter().map(|[level, _]| [level; 3]).collect()
            }
            PixelData::Rgba(pixels) => {
                let square = resize_premultiplied(self.pixel_view(pixels, region), side);
                square.into_iter().map(|[r, g, b, _]| [r, g, b]).collect()
            }
            // Resized as inks: the conversion to RGB is not linear, so the order matters.
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

                // Pillow converts 16 bits to 8 by cutting off what is brighter, not by scaling.
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

/// Resizes colors weighted with their alpha, which comes last: otherwise the color of transparent pixels, which
/// nobody sees, would bleed into the edges.
fn resize_premultiplied<const C: usize>(view: PixelView<'_, u8, C>, side: usize) -> Vec<[u8; C]> {
    let PixelRegion { width, height, .. } = view.region;
    let mut pixels = view.to_pixels();
    // What fits already is left alone, as in Pillow: weighting and back loses bits.
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
    let [colors @ .., alpha] = pixel.as_mut_slice() else {
        return;
    };

    colors
        .iter_mut()
        .for_each(|level| *level = change(*level, *alpha));
}

/// `level · share / 255`, rounded: Pillow's `MULDIV255`.
fn multiply_alpha(level: u8, share: u8) -> u8 {
    // x / 255 = (x + x / 256) / 256 for every product of two bytes: no division in the inner loop.
    let product = u32::from(level) * u32::from(share) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// The inverse of [`multiply_alpha`], as far as it has one.
fn divide_alpha(level: u8, share: u8) -> u8 {
    match share {
        0 | 255 => level,
        _ => (u32::from(level) * 255 / u32::from(share)).min(255) as u8,
    }
}

/// Pillow's conversion, without a color profile.
pub(super) fn cmyk_to_rgb(inks: [u8; 4]) -> Rgb {
    let [cyan, magenta, yellow, black] = inks;
    let light = 255 - black;
    [cyan, magenta, yellow].map(|ink| light.saturating_sub(multiply_alpha(ink, light)))
}
