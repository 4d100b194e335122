//! PNG of every depth. Of 16 bits only gray keeps them, as in the reference.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Transformations};

use super::{DecodeError, Picture, Pixels, Source, tripled, without_last};

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, DecodeError> {
    let source = Source {
        format: "PNG",
        bytes,
    };

    let mut decoder = Decoder::new(Cursor::new(bytes));
    let header = decoder.read_header_info().map_err(|e| source.broken(e))?;
    let width = header.width as usize;
    let height = header.height as usize;
    let colour = header.color_type;
    let depth = header.bit_depth;

    source.check(width, height)?;
    decoder.set_transformations(match (colour, depth) {
        (ColorType::Grayscale, BitDepth::Sixteen) => Transformations::IDENTITY,
        _ => Transformations::EXPAND | Transformations::STRIP_16,
    });

    let mut reader = decoder.read_info().map_err(|e| source.broken(e))?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| source.broken("its rows are too long"))?;

    let mut buffer = vec![0; size];
    let out = reader
        .next_frame(&mut buffer)
        .map_err(|e| source.broken(e))?
        .color_type;

    // The palette's or a single colour's transparency came as an alpha; the reference ignores it.
    if colour != out && matches!(out, ColorType::GrayscaleAlpha | ColorType::Rgba) {
        buffer = without_last(out.samples(), &buffer);
    }

    let pixels = match (colour, depth) {
        (ColorType::Grayscale, BitDepth::One) => Pixels::Listed(tripled(&buffer)),
        (ColorType::Grayscale, BitDepth::Sixteen) => Pixels::Gray16(from_big_endian(&buffer)),
        (ColorType::Grayscale, _) => Pixels::Gray(buffer),
        (ColorType::GrayscaleAlpha, _) => Pixels::GrayAlpha(buffer),
        (ColorType::Indexed, _) => Pixels::Listed(buffer),
        (ColorType::Rgb, _) => Pixels::Rgb(buffer),
        (ColorType::Rgba, _) => Pixels::Rgba(buffer),
    };

    Ok(Picture {
        width,
        height,
        pixels,
    })
}

fn from_big_endian(bytes: &[u8]) -> Vec<u16> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&pair| u16::from_be_bytes(pair))
        .collect()
}
