//! WebP, lossy or lossless; of an animation, the first frame.

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::webp::WebPDecoder;

use super::{DecodeError, DecodedImage, EncodedImage};

pub(super) fn decode_webp(bytes: &[u8]) -> Result<DecodedImage, DecodeError> {
    let source = EncodedImage {
        format: "WebP",
        bytes,
    };

    let bytes = without_metadata_flags(bytes);
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| source.decode_error(e))?;
    // Of an animation this is the first frame, as in Pillow before `seek`.
    source.read_pixels(decoder)
}

/// The file without the flags that announce EXIF and XMP, which no pixel depends on: the decoder refuses a file that
/// announces what it does not hold, and Pillow reads it.
fn without_metadata_flags(bytes: &[u8]) -> Cow<'_, [u8]> {
    /// Behind the headers of RIFF and of the chunk `VP8X`.
    const FLAGS: usize = 20;
    const EXIF_AND_XMP: u8 = 0b1100;

    let is_extended = bytes.get(12..16) == Some(b"VP8X");
    match bytes.get(FLAGS) {
        Some(flags) if is_extended && flags & EXIF_AND_XMP != 0 => {
            let mut cleared = bytes.to_vec();
            cleared[FLAGS] &= !EXIF_AND_XMP;
            cleared.into()
        }
        _ => bytes.into(),
    }
}
