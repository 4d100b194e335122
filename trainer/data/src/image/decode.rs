//! Decodes an image as the reference opens it, in the channels of its file.
//!
//! It never converts to RGB what is not: the reference resizes first, and only then drops the
//! palette, the alpha or the ink. The orientation in the EXIF data of a JPEG is not applied, because the
//! reference does not either (`Image.open` without `exif_transpose`).

mod bmp;
mod gif;
mod jpeg;
mod png;
mod webp;

use image::{ColorType, ImageDecoder};

/// A larger image is refused by its header: Pillow's limit against decompression bombs, twice
/// `Image.MAX_IMAGE_PIXELS`.
pub const MAX_IMAGE_PIXELS: usize = 178_956_970;
/// A longer side is refused too: resizing keeps a row of the result for each row of the image, so that a PNG of one
/// megabyte could ask for 120 GB. No JPEG, WebP or GIF is larger.
pub const MAX_IMAGE_SIDE: usize = 65_535;

/// An image in the channels of its file.
///
/// ```
/// use cnclip_data::image::decode::{DecodeError, PixelData, decode_image};
///
/// // A GIF of one pixel, whose palette is red and black.
/// let mut gif = b"GIF89a".to_vec();
/// gif.extend([1, 0, 1, 0, 0x80, 0, 0, 255, 0, 0, 0, 0, 0]);
/// gif.extend([0x2C, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0, 0x3B]);
///
/// let image = decode_image(&gif).unwrap();
/// assert_eq!((image.width, image.height), (1, 1));
/// assert_eq!(image.pixels, PixelData::Palette(vec![255, 0, 0]));
/// assert!(matches!(decode_image(b"<svg>"), Err(DecodeError::UnknownFormat(_))));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedImage {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The pixels, row after row from the top.
    pub pixels: PixelData,
}

/// Interleaved channels, and with them how the image may be resized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PixelData {
    /// One channel.
    Gray(Vec<u8>),
    /// One channel of 16 bits.
    Gray16(Vec<u16>),
    /// Gray and alpha, not premultiplied.
    GrayAlpha(Vec<u8>),
    /// Three channels.
    Rgb(Vec<u8>),
    /// Three channels out of a palette or of a single bit: two of them must never be mixed.
    Palette(Vec<u8>),
    /// Three channels and alpha, not premultiplied.
    Rgba(Vec<u8>),
    /// Four inks, 255 being full ink.
    Cmyk(Vec<u8>),
}

/// Why bytes are no image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The first bytes are those of no format that is read.
    #[error(
        "an image begins with the bytes {0:02x?}, expected JPEG, PNG, WebP, GIF or BMP; convert it, or leave the sample out"
    )]
    UnknownFormat(Vec<u8>),
    /// The header announces more pixels than are decoded.
    #[error(
        "a {format} of {width}×{height} pixels, expected 1 to {MAX_IMAGE_PIXELS} pixels and sides of at most \
         {MAX_IMAGE_SIDE}; shrink it, or leave the sample out"
    )]
    InvalidSize {
        /// The format found.
        format: &'static str,
        /// Pixels in a row, by the header.
        width: usize,
        /// Rows, by the header.
        height: usize,
    },
    /// The file is cut short or damaged.
    #[error(
        "a {format} of {length} bytes cannot be decoded: {reason}; fetch it again, or leave the sample out"
    )]
    Corrupt {
        /// The format found.
        format: &'static str,
        /// Bytes given.
        length: usize,
        /// The error of its decoder.
        reason: String,
    },
}

/// Decodes the first image of a file, by the format that its first bytes name.
///
/// # Errors
/// Another format, an unusable size (before anything of that size is allocated), damaged data.
///
/// # Guarantees
/// The pixels equal those of Pillow with libjpeg-turbo and libwebp.
pub fn decode_image(bytes: &[u8]) -> Result<DecodedImage, DecodeError> {
    // By content and never by name: data sets are full of PNGs called `.jpg`.
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => jpeg::decode_jpeg(bytes),
        [0x89, b'P', b'N', b'G', ..] => png::decode_png(bytes),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => webp::decode_webp(bytes),
        [b'G', b'I', b'F', b'8', ..] => gif::decode_gif(bytes),
        [b'B', b'M', ..] => bmp::decode_bmp(bytes),
        _ => Err(DecodeError::UnknownFormat(
            bytes[..bytes.len().min(8)].to_vec(),
        )),
    }
}

/// The input of a decoder, for its errors.
#[derive(Debug, Clone, Copy)]
struct EncodedImage<'a> {
    format: &'static str,
    bytes: &'a [u8],
}

impl EncodedImage<'_> {
    fn decode_error(self, reason: impl ToString) -> DecodeError {
        let Self { format, bytes } = self;
        DecodeError::Corrupt {
            format,
            length: bytes.len(),
            reason: reason.to_string(),
        }
    }

    /// Refuses a size before memory is allocated for it.
    fn check_dimensions(self, width: usize, height: usize) -> Result<(), DecodeError> {
        match width.checked_mul(height) {
            Some(1..=MAX_IMAGE_PIXELS) if width.max(height) <= MAX_IMAGE_SIDE => Ok(()),
            _ => Err(DecodeError::InvalidSize {
                format: self.format,
                width,
                height,
            }),
        }
    }

    /// The pixels of a decoder whose images are RGB, or RGBA.
    fn read_pixels(self, decoder: impl ImageDecoder) -> Result<DecodedImage, DecodeError> {
        let (width, height) = decoder.dimensions();
        let width = width as usize;
        let height = height as usize;
        // Before the allocation, so that a header of a few bytes cannot ask for gigabytes.
        self.check_dimensions(width, height)?;
        let color = decoder.color_type();
        let mut buffer = vec![0; width * height * usize::from(color.bytes_per_pixel())];

        decoder
            .read_image(&mut buffer)
            .map_err(|error| self.decode_error(error))?;

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
}

/// Drops the last of `channels`.
fn drop_last_channel(channels: usize, pixels: &[u8]) -> Vec<u8> {
    pixels
        .chunks_exact(channels)
        .flat_map(|pixel| &pixel[..channels - 1])
        .copied()
        .collect()
}

/// Gray as three equal channels.
fn gray_to_rgb(gray: &[u8]) -> Vec<u8> {
    gray.iter().flat_map(|&level| [level; 3]).collect()
}

#[cfg(test)]
mod tests;
