//! Images of a data set as `data:` URIs, small enough for a page that must be one file. Never fetches one.

use base64::{Engine, engine::general_purpose::STANDARD};

use cnclip_data::image::decode::decode_image;
use cnclip_data::image::resize::PixelRegion;

/// Files up to this size are carried as they are.
const MAX_INLINE_BYTES: usize = 6 << 10;
/// Width and height of the others, in pixels.
const THUMBNAIL_SIZE: usize = 144;
/// Their quality, of 100.
const JPEG_QUALITY: i32 = 80;

/// A `data:` URI of the image, or of the middle of a large one; `None` if it is no image.
pub(super) fn thumbnail_data_uri(file: &[u8]) -> Option<String> {
    let format = match file {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xFF, 0xD8, 0xFF, ..] => "jpeg",
        _ => "",
    };

    // Only formats that every browser shows; and only what decodes: anything else is not proven an image.
    if !format.is_empty() && file.len() <= MAX_INLINE_BYTES && decode_image(file).is_ok() {
        return Some(encode_data_uri(format, file));
    }

    let decoded = decode_image(file).ok()?;
    // The page shows squares. The middle is cropped rather than the image squeezed.
    let side = decoded.width.min(decoded.height);
    let left = (decoded.width - side) / 2;
    let top = (decoded.height - side) / 2;
    let square = decoded.resize_to_square(
        PixelRegion {
            left,
            top,
            width: side,
            height: side,
        },
        THUMBNAIL_SIZE,
    );

    let image = turbojpeg::Image {
        pixels: square.as_flattened(),
        width: THUMBNAIL_SIZE,
        pitch: 3 * THUMBNAIL_SIZE,
        height: THUMBNAIL_SIZE,
        format: turbojpeg::PixelFormat::RGB,
    };

    let jpeg = turbojpeg::compress(image, JPEG_QUALITY, turbojpeg::Subsamp::Sub2x2).ok()?;
    Some(encode_data_uri("jpeg", &jpeg))
}

fn encode_data_uri(format: &str, file: &[u8]) -> String {
    format!("data:image/{format};base64,{}", STANDARD.encode(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> Vec<u8> {
        std::fs::read(format!(
            "{}/tests/golden/images/{name}",
            env!("CARGO_MANIFEST_DIR")
        ))
        .unwrap()
    }

    fn carried(uri: &str) -> Vec<u8> {
        STANDARD
            .decode(uri.split_once(";base64,").unwrap().1)
            .unwrap()
    }

    #[test]
    fn a_small_file_is_carried_as_it_is() {
        let file = golden("odd/png_gray2.png");
        let uri = thumbnail_data_uri(&file).unwrap();
        assert!(uri.starts_with("data:image/png;base64,"), "{uri}");
        assert_eq!(carried(&uri), file);
    }

    #[test]
    fn a_large_file_or_one_of_another_format_becomes_a_small_square() {
        for name in ["base.png", "odd/bmp_32.bmp"] {
            let uri = thumbnail_data_uri(&golden(name)).unwrap();
            assert!(uri.starts_with("data:image/jpeg;base64,"), "{name}: {uri}");
            let image = decode_image(&carried(&uri)).unwrap();
            assert_eq!(
                (image.width, image.height),
                (THUMBNAIL_SIZE, THUMBNAIL_SIZE),
                "{name}"
            );
        }
    }

    #[test]
    fn what_does_not_decode_is_not_carried() {
        let file = golden("odd/png_gray2.png");
        for bytes in [&b""[..], b"\x89PNG", &file[..file.len() / 2]] {
            assert_eq!(thumbnail_data_uri(bytes), None);
        }
    }
}
