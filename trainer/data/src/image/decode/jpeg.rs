//! JPEG by libjpeg-turbo, with which the reference decodes: other decoders round the inverse cosine transform and
//! the upsampling of chroma differently.

use turbojpeg::{Colorspace, Decompressor, Error, Image, PixelFormat};

use super::{DecodeError, DecodedImage, EncodedImage, PixelData};

/// Scans of a progressive image, each of which goes over all of its pixels: encoders write about ten, and a file of a
/// megabyte has room for a hundred thousand.
const MAX_SCANS: u32 = 100;

pub(super) fn decode_jpeg(bytes: &[u8]) -> Result<DecodedImage, DecodeError> {
    let source = EncodedImage {
        format: "JPEG",
        bytes,
    };

    let mut decompressor = Decompressor::new().map_err(|e| source.decode_error(e))?;
    decompressor
        .set_scan_limit(MAX_SCANS)
        .map_err(|e| source.decode_error(e))?;
    let header = decompressor
        .read_header(bytes)
        .map_err(|e| source.decode_error(e))?;

    let width = header.width;
    let height = header.height;
    source.check_dimensions(width, height)?;
    // YCCK is converted to CMYK by the library, as in Pillow; gray stays one channel.
    let format = match header.colorspace {
        Colorspace::Gray => PixelFormat::GRAY,
        Colorspace::CMYK | Colorspace::YCCK => PixelFormat::CMYK,
        Colorspace::RGB | Colorspace::YCbCr => PixelFormat::RGB,
    };

    let pitch = width * format.size();
    let mut pixels = vec![0; pitch * height];
    let image = Image {
        pixels: &mut pixels[..],
        width,
        pitch,
        height,
        format,
    };

    match decompressor.decompress(bytes, image) {
        Err(error) if !is_decoder_warning(&error) => return Err(source.decode_error(error)),
        _ => {}
    }

    let pixels = match format {
        PixelFormat::GRAY => PixelData::Gray(pixels),
        PixelFormat::CMYK => PixelData::Cmyk(invert_cmyk(pixels)),
        _ => PixelData::Rgb(pixels),
    };

    Ok(DecodedImage {
        width,
        height,
        pixels,
    })
}

/// Whether libjpeg goes on after it, as the reference does; a file cut short is an error in both.
fn is_decoder_warning(error: &Error) -> bool {
    // The binding returns warnings and errors alike; only the text distinguishes them.
    let Error::TurboJpegError(message) = error else {
        return false;
    };

    [
        "Corrupt JPEG data",
        "Inconsistent progression",
        "Invalid SOS",
        "Unknown Adobe",
    ]
    .iter()
    .any(|warning| message.contains(warning))
}

/// JPEG files with four inks store them inverted, as Adobe's programs do.
fn invert_cmyk(mut inks: Vec<u8>) -> Vec<u8> {
    inks.iter_mut().for_each(|ink| *ink = !*ink);
    inks
}
