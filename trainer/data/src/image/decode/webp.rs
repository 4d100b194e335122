//! WebP, lossy or lossless; of an animation, the first frame.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder};

use super::{DecodeError, DecodedImage, EncodedImage, PixelData};

pub(super) fn decode_webp(bytes: &[u8]) -> Result<DecodedImage, DecodeError> {
    let source = EncodedImage {
        format: "WebP",
        bytes,
    };

    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| source.decode_error(e))?;
    let (width, height) = decoder.dimensions();
    let width = width as usize;
    let height = height as usize;
    source.check_dimensions(width, height)?;
    let color = decoder.color_type();
    // The size was checked above, so a header of a few bytes cannot ask for gigabytes.
    let mut buffer = vec![0; width * height * usize::from(color.bytes_per_pixel())];

    decoder
        .read_image(&mut buffer)
        .map_err(|e| source.decode_error(e))?;

    // Of an animation this is the first frame, as in Pillow before `seek`.
    let pixels = match color {
        ColorType::Rgba8 => PixelData::Rgba(buffer),
        _ => PixelData::Rgb(buffer),
    };

    Ok(DecodedImage {
        width,
        height,
        pixels,
    })
}
