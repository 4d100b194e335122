//! From the bytes of an image to the planes that a tower is given, as the reference's transform.
//!
//! It never normalizes in place: batches move to the device as bytes, a quarter of their size as floats.

use super::augment::{AugmentKey, augment_image};
use super::decode::{DecodeError, DecodedImage, decode_image};
use cnclip_crds::stage::Augmentation;

pub use cnclip_compute::ops::patchify::{CLIP_MEAN as CHANNEL_MEANS, CLIP_STD as CHANNEL_STDS};

/// Decodes, augments and resizes an image into its place in a batch.
///
/// # Shapes
/// `planes` is `[3, side, side]`.
///
/// # Errors
/// Bytes that [`decode_image`] refuses; `planes` is untouched then.
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

/// An image as evaluations use it: decoded and resized, not augmented.
///
/// # Shapes
/// `[3, side, side]`
///
/// # Errors
/// Those of [`preprocess_image`].
///
/// ```
/// use cnclip_data::image::preprocess::preprocess_for_eval;
///
/// # fn main() -> Result<(), cnclip_data::image::decode::DecodeError> {
/// // A BMP of one pixel, 24 bits: blue 10, green 20, red 30.
/// let mut bmp = b"BM".to_vec();
/// bmp.extend([58, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0]);
/// bmp.extend([40, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 24, 0]);
/// bmp.extend([0; 24]);
/// bmp.extend([10, 20, 30, 0]);
///
/// let planes = preprocess_for_eval(&bmp, 2)?;
/// assert_eq!(planes, [30, 30, 30, 30, 20, 20, 20, 20, 10, 10, 10, 10]);
/// # Ok(())
/// # }
/// ```
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

/// Augments and resizes a decoded image into its place in a batch.
///
/// # Shapes
/// `planes` is `[3, side, side]`.
///
/// # Guarantees
/// As [`preprocess_image`].
pub fn augment_into(
    image: &DecodedImage,
    side: usize,
    augmentation: Augmentation,
    key: AugmentKey,
    planes: &mut [u8],
) {
    let square = augment_image(image, side, augmentation, key);
    // Planes and not pixels: the patch embedding reads one channel after the other.
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
            // In torchvision's order, `ToTensor` then `Normalize`: folded into one factor it would round differently.
            *value = (f32::from(level) / 255.0 - CHANNEL_MEANS[c]) / CHANNEL_STDS[c];
        }
    }
}

#[cfg(test)]
mod tests;
