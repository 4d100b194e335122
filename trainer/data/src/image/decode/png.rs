//! PNG of every depth. Of 16 bits only gray keeps them, as in the reference.

use std::io::Cursor;

use png::{BitDepth, ColorType, DecodeOptions, Decoder, Transformations};

use super::{DecodeError, DecodedImage, EncodedImage, PixelData, drop_last_channel, gray_to_rgb};

/// The chunk that ends every PNG.
const END_CHUNK: &[u8] = b"\0\0\0\0IEND\xAEB`\x82";

pub(super) fn decode_png(bytes: &[u8]) -> Result<DecodedImage, DecodeError> {
    decode_whole_png(bytes).or_else(|error| match bytes.ends_with(END_CHUNK) {
        true => Err(error),
        // Pillow does not miss the end of a file whose pixels are all there.
        false => decode_whole_png(&[bytes, END_CHUNK].concat()).map_err(|_| error),
    })
}

fn decode_whole_png(bytes: &[u8]) -> Result<DecodedImage, DecodeError> {
    let source = EncodedImage {
        format: "PNG",
        bytes,
    };

    // Pillow and browsers read on where a checksum is wrong: the pixels may be right, and most often are.
    let mut options = DecodeOptions::default();
    options.set_ignore_checksums(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    let header = decoder
        .read_header_info()
        .map_err(|e| source.decode_error(e))?;
    let width = header.width as usize;
    let height = header.height as usize;
    let color = header.color_type;
    let depth = header.bit_depth;

    source.check_dimensions(width, height)?;
    // Pillow has a mode of 16 bits for gray alone; of other 16-bit images it keeps the high bytes.
    decoder.set_transformations(match (color, depth) {
        (ColorType::Grayscale, BitDepth::Sixteen) => Transformations::IDENTITY,
        _ => Transformations::EXPAND | Transformations::STRIP_16,
    });

    let mut reader = decoder.read_info().map_err(|e| source.decode_error(e))?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| source.decode_error("its rows are too long"))?;

    let mut buffer = vec![0; size];
    let out = reader
        .next_frame(&mut buffer)
        .map_err(|e| source.decode_error(e))?
        .color_type;

    // The palette's or a single colour's transparency came as an alpha; the reference ignores it.
    if color != out && matches!(out, ColorType::GrayscaleAlpha | ColorType::Rgba) {
        buffer = drop_last_channel(out.samples(), &buffer);
    }

    // One bit a pixel is mode `1` in Pillow, which it resizes like a palette.
    let pixels = match (color, depth) {
        (ColorType::Grayscale, BitDepth::One) => PixelData::Palette(gray_to_rgb(&buffer)),
        (ColorType::Grayscale, BitDepth::Sixteen) => {
            PixelData::Gray16(u16_from_big_endian(&buffer))
        }
        (ColorType::Grayscale, _) => PixelData::Gray(buffer),
        (ColorType::GrayscaleAlpha, _) => PixelData::GrayAlpha(buffer),
        (ColorType::Indexed, _) => PixelData::Palette(buffer),
        (ColorType::Rgb, _) => PixelData::Rgb(buffer),
        (ColorType::Rgba, _) => PixelData::Rgba(buffer),
    };

    Ok(DecodedImage {
        width,
        height,
        pixels,
    })
}

fn u16_from_big_endian(bytes: &[u8]) -> Vec<u16> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| u16::from_be_bytes(bytes))
        .collect()
}
