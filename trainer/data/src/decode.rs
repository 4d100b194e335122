//! Reads an encoded picture as the reference opens it, in the colours of its file.
//!
//! It never converts to RGB what is not: the reference resizes first, and only then drops the
//! palette, the alpha or the ink. The orientation that a camera notes in a JPEG is not applied.

mod bmp;
mod gif;
mod jpeg;
mod png;
mod webp;

#[cfg(test)]
mod tests;

/// A larger picture is refused by its header, as Pillow refuses it.
pub const MOST_PIXELS: usize = 178_956_970;

/// A picture as it lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The pixels, row after row from the top.
    pub pixels: Pixels,
}

/// Interleaved channels, and with them how the picture may be resized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pixels {
    /// One channel.
    Gray(Vec<u8>),
    /// One channel of 16 bits.
    Gray16(Vec<u16>),
    /// Gray and alpha, not premultiplied.
    GrayAlpha(Vec<u8>),
    /// Three channels.
    Rgb(Vec<u8>),
    /// Three channels out of a palette or of a single bit: two of them must never be mixed.
    Listed(Vec<u8>),
    /// Three channels and alpha, not premultiplied.
    Rgba(Vec<u8>),
    /// Four inks, 255 being full ink.
    Cmyk(Vec<u8>),
}

/// Why bytes are no picture.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The first bytes are those of no format that is read.
    #[error(
        "a picture begins with the bytes {0:02x?}, expected JPEG, PNG, WebP, GIF or BMP; convert it, or leave the sample out"
    )]
    Format(Vec<u8>),
    /// The header announces more pixels than are decoded.
    #[error(
        "a {format} of {width}×{height} pixels, expected 1 to {MOST_PIXELS} pixels; shrink it, or leave the sample out"
    )]
    Size {
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
    Broken {
        /// The format found.
        format: &'static str,
        /// Bytes given.
        length: usize,
        /// What its decoder met.
        reason: String,
    },
}

/// Decodes the first picture of a file of any format that is read.
///
/// # Errors
/// Another format, an unusable size (before anything of that size is allocated), damaged data.
///
/// # Guarantees
/// The pixels equal those of Pillow with libjpeg-turbo and libwebp.
pub fn decode(bytes: &[u8]) -> Result<Picture, DecodeError> {
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => jpeg::decode(bytes),
        [0x89, b'P', b'N', b'G', ..] => png::decode(bytes),
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
        ] => webp::decode(bytes),
        [b'G', b'I', b'F', b'8', ..] => gif::decode(bytes),
        [b'B', b'M', ..] => bmp::decode(bytes),
        _ => Err(DecodeError::Format(bytes[..bytes.len().min(8)].to_vec())),
    }
}

/// What a decoder knows of its input for the message of a failure.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    format: &'static str,
    bytes: &'a [u8],
}

impl Source<'_> {
    fn broken(self, reason: impl ToString) -> DecodeError {
        let Self { format, bytes } = self;
        DecodeError::Broken {
            format,
            length: bytes.len(),
            reason: reason.to_string(),
        }
    }

    /// Refuses a size before memory is asked for it.
    fn check(self, width: usize, height: usize) -> Result<(), DecodeError> {
        match width.checked_mul(height) {
            Some(1..=MOST_PIXELS) => Ok(()),
            _ => Err(DecodeError::Size {
                format: self.format,
                width,
                height,
            }),
        }
    }
}

/// Drops the last of `channels`.
fn without_last(channels: usize, pixels: &[u8]) -> Vec<u8> {
    pixels
        .chunks_exact(channels)
        .flat_map(|pixel| &pixel[..channels - 1])
        .copied()
        .collect()
}

/// Gray as three equal channels.
fn tripled(gray: &[u8]) -> Vec<u8> {
    gray.iter().flat_map(|&level| [level; 3]).collect()
}
