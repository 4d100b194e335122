//! Images as the loader reads them: decoded, augmented or not, and resized.

use cnclip_crds::stage::Augmentation;
use cnclip_data::image::augment::AugmentKey;
use cnclip_data::image::decode::{MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE, PixelData, decode_image};
use cnclip_data::image::preprocess::augment_into;

/// Smaller than a tower's, so that most of the time goes into decoding.
const SIDE: usize = 16;

pub(super) fn image(data: &[u8]) -> bool {
    let Ok(image) = decode_image(data) else {
        return false;
    };

    let pixels = image.width * image.height;
    assert!((1..=MAX_IMAGE_PIXELS).contains(&pixels));
    assert!(image.width.max(image.height) <= MAX_IMAGE_SIDE);
    let (values, channels) = match &image.pixels {
        PixelData::Gray(values) => (values.len(), 1),
        PixelData::Gray16(values) => (values.len(), 1),
        PixelData::GrayAlpha(values) => (values.len(), 2),
        PixelData::Rgb(values) | PixelData::Palette(values) => (values.len(), 3),
        PixelData::Rgba(values) | PixelData::Cmyk(values) => (values.len(), 4),
    };

    assert_eq!(values, pixels * channels);

    let key = AugmentKey {
        seed: 1,
        step: 2,
        sample: data.len() as u64,
    };

    for augmentation in [Augmentation::None, Augmentation::AutoAugment] {
        let planes = || {
            let mut planes = vec![0; 3 * SIDE * SIDE];
            augment_into(&image, SIDE, augmentation, key, &mut planes);
            planes
        };

        let first = planes();
        // Large images take seconds, and say nothing more about it.
        if pixels < 1 << 20 {
            assert_eq!(first, planes());
        }
    }

    true
}
