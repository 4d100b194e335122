//! Images in base64, which the reference's files and databases store them in.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::{Error, Result};
use crate::shard::ItemId;

// Some tools leave the padding away; the length says as much.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        // Python takes them too.
        .with_decode_allow_trailing_bits(true),
);

/// The bytes of an image in base64; `location` says in an error where the text is stored.
pub(super) fn decode_image_value(
    mut text: Vec<u8>,
    id: &ItemId,
    location: impl FnOnce() -> String,
) -> Result<Vec<u8>> {
    // Both alphabets, as Python's `urlsafe_b64decode`, with which the reference reads: no text means two things.
    // And without white space, as encoders for mail break lines.
    text.retain(|byte| !byte.is_ascii_whitespace());
    for byte in &mut text {
        *byte = match *byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => byte,
        };
    }

    BASE64.decode(&text).map_err(|error| {
        Error::Data(format!(
            "{}: image {id} is not base64 ({error}). Write it again.",
            location()
        ))
    })
}
