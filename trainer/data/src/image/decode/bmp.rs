//! BMP. With 8 bits or fewer its colours are a palette, unless that palette only counts up in gray.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::{ColorType, ImageDecoder};

use super::{DecodeError, DecodedImage, EncodedImage, PixelData};

pub(super) fn decode_bmp(bytes: &[u8]) -> Result<DecodedImage, DecodeError> {
    let source = EncodedImage {
        format: "BMP",
        bytes,
    };

    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|e| source.decode_error(e))?;
    let (width, height) = decoder.dimensions();
    let width = width as usize;
    let height = height as usize;
    source.check_dimensions(width, height)?;
    let colour = decoder.color_type();
    let mut buffer = vec![0; width * height * usize::from(colour.bytes_per_pixel())];

    decoder
        .read_image(&mut buffer)
        .map_err(|e| source.decode_error(e))?;

    let pixels = match (colour, find_palette(bytes)) {
        (ColorType::Rgba8, _) => PixelData::Rgba(buffer),
        (_, None) => PixelData::Rgb(buffer),
        (_, Some(palette)) if is_gray_ramp(palette) => {
            PixelData::Gray(buffer.into_iter().step_by(3).collect())
        }
        (_, Some(_)) => PixelData::Palette(buffer),
    };

    Ok(DecodedImage {
        width,
        height,
        pixels,
    })
}

/// The palette, four bytes a colour, of a file that has one.
fn find_palette(bytes: &[u8]) -> Option<&[u8]> {
    let number = |at: usize, length: usize| {
        let digits = bytes.get(at..at + length)?;
        Some(
            digits
                .iter()
                .rev()
                .fold(0, |value, &digit| value << 8 | usize::from(digit)),
        )
    };

    let header = number(14, 4)?;
    let bits = number(28, 2).filter(|bits| header >= 40 && *bits <= 8)?;
    let colours = number(46, 4)
        .filter(|&colours| colours > 0)
        .unwrap_or(1 << bits);

    let start = header.checked_add(14)?;
    bytes.get(start..start.checked_add(colours.checked_mul(4)?)?)
}

/// Black and white alone stay a palette: a bit a pixel is never mixed.
fn is_gray_ramp(palette: &[u8]) -> bool {
    let colours = palette.as_chunks::<4>().0;
    colours.len() > 2
        && (0..).zip(colours).all(|(index, colour): (usize, _)| {
            colour[..3].iter().all(|&level| usize::from(level) == index)
        })
}
