//! BMP. With 8 bits or fewer its colors are a palette, unless that palette only counts up in gray.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;

use super::{DecodeError, DecodedImage, EncodedImage, PixelData};

pub(super) fn decode_bmp(bytes: &[u8]) -> Result<DecodedImage, DecodeError> {
    let source = EncodedImage {
        format: "BMP",
        bytes,
    };

    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|e| source.decode_error(e))?;
    let decoded = source.read_pixels(decoder)?;

    // The decoder gives RGB for palettes too, so the header is read once more for how to resize.
    let pixels = match (decoded.pixels, find_palette(bytes)) {
        (PixelData::Rgb(rgb), Some(palette)) if is_gray_ramp(palette) => {
            PixelData::Gray(rgb.into_iter().step_by(3).collect())
        }
        (PixelData::Rgb(rgb), Some(_)) => PixelData::Palette(rgb),
        (pixels, _) => pixels,
    };

    Ok(DecodedImage { pixels, ..decoded })
}

/// The palette, four bytes a color, of a file that has one.
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

    // BITMAPINFOHEADER or newer: its size at 14, bits a pixel at 28, colors in the palette at 46.
    let header = number(14, 4)?;
    let bits = number(28, 2).filter(|bits| header >= 40 && *bits <= 8)?;
    let colors = number(46, 4)
        .filter(|&colors| colors > 0)
        .unwrap_or(1 << bits);

    let start = header.checked_add(14)?;
    bytes.get(start..start.checked_add(colors.checked_mul(4)?)?)
}

/// Black and white alone stay a palette: a bit a pixel is never mixed.
fn is_gray_ramp(palette: &[u8]) -> bool {
    let colors = palette.as_chunks::<4>().0;
    colors.len() > 2
        && (0..).zip(colors).all(|(index, color): (usize, _)| {
            color[..3].iter().all(|&level| usize::from(level) == index)
        })
}
