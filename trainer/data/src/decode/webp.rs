//! WebP, lossy or lossless; of an animation, the first frame.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder};

use super::{DecodeError, Picture, Pixels, Source};

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, DecodeError> {
    let source = Source {
        format: "WebP",
        bytes,
    };

    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| source.broken(e))?;
    let (width, height) = decoder.dimensions();
    let width = width as usize;
    let height = height as usize;
    source.check(width, height)?;
    let colour = decoder.color_type();
    let mut buffer = vec![0; width * height * usize::from(colour.bytes_per_pixel())];

    decoder
        .read_image(&mut buffer)
        .map_err(|e| source.broken(e))?;

    let pixels = match colour {
        ColorType::Rgba8 => Pixels::Rgba(buffer),
        _ => Pixels::Rgb(buffer),
    };

    Ok(Picture {
        width,
        height,
        pixels,
    })
}
