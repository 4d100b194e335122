//! WebP, lossy or lossless; of an animation, the first frame.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;

use super::{DecodeError, DecodedImage, EncodedImage};

pub(super) fn decode_webp(bytes: &[u8]) -> Result<DecodedImage, DecodeError> {
    let source = EncodedImage {
        format: "WebP",
        bytes,
    };

    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| source.decode_error(e))?;
    // Of an animation this is the first frame, as in Pillow before `seek`.
    source.read_pixels(decoder)
}
