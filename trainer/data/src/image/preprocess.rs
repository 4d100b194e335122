//! From the bytes of a picture to the planes that a tower is given, as the reference's transform.
//!
//! It never normalises in place: batches travel as bytes, and [`normalise`] says what a byte is worth.

use cnclip_crds::stage::Augmentation;

use super::augment::{AugmentKey, augment_image};
use super::decode::{DecodeError, DecodedImage, decode_image};

#[cfg(test)]
mod tests;

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
