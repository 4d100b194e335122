use super::*;
use crate::golden::{self, read_golden_file, sha256_hex};

/// All of an image as RGB, nothing resized: what decoding alone did.
fn rgb(image: &DecodedImage) -> Vec<u8> {
    match &image.pixels {
        PixelData::Rgb(pixels) | PixelData::Palette(pixels) => pixels.clone(),
        PixelData::Gray(levels) => gray_to_rgb(levels),
        PixelData::GrayAlpha(pixels) => gray_to_rgb(&drop_last_channel(2, pixels)),
        PixelData::Rgba(pixels) => drop_last_channel(4, pixels),
        PixelData::Gray16(levels) => levels.iter().flat_map(|&l| [l.min(255) as u8; 3]).collect(),
        PixelData::Cmyk(pixels) => {
            let inks = pixels.as_chunks().0;
            inks.iter()
                .flat_map(|&inks| crate::image::square::cmyk_to_rgb(inks))
                .collect()
        }
    }
}

/// Pillow's names for what it opened.
fn is_mode(pixels: &PixelData, mode: &str) -> bool {
    match pixels {
        PixelData::Gray(_) => mode == "L",
        PixelData::Gray16(_) => mode == "I;16",
        PixelData::GrayAlpha(_) => mode == "LA" || mode == "RGBA",
        PixelData::Rgb(_) => mode == "RGB",
        PixelData::Palette(_) => mode == "P" || mode == "1",
        PixelData::Rgba(_) => mode == "RGBA",
        PixelData::Cmyk(_) => mode == "CMYK",
    }
}

#[test]
fn every_file_opens_as_the_reference_opens_it() {
    let mut seen = 0;
    for (name, golden) in golden::expected_images() {
        let image = decode_image(&golden::read_golden_file(&name))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(
            (image.width, image.height),
            (golden.width, golden.height),
            "{name}"
        );

        assert!(
            is_mode(&image.pixels, &golden.mode),
            "{name} is no {}",
            golden.mode
        );

        assert_eq!(sha256_hex(&rgb(&image)), golden.decoded, "{name}");
        seen += 1;
    }

    assert_eq!(seen, 50);
}

#[test]
fn a_file_cut_short_says_what_it_is_and_how_long() {
    for (name, format) in [
        ("usual/jpeg_420_q90.jpg", "JPEG"),
        ("usual/jpeg_444_q75_progressive.jpg", "JPEG"),
        ("usual/png_rgb.png", "PNG"),
        ("usual/webp_lossy.webp", "WebP"),
        ("odd/gif_interlaced.gif", "GIF"),
        ("usual/bmp_rgb.bmp", "BMP"),
    ] {
        let whole = golden::read_golden_file(name);
        for length in [whole.len() / 2, 30, 13] {
            let message = decode_image(&whole[..length])
                .map(|_| ())
                .expect_err(name)
                .to_string();

            let expected = format!("a {format} of {length} bytes cannot be decoded: ");
            assert!(message.starts_with(&expected), "{name}: {message}");
        }
    }
}

#[test]
fn a_size_that_no_sample_has_is_refused_by_the_header() {
    let mut png = golden::read_golden_file("usual/tiny_1x1.png");
    png[16..24].copy_from_slice(&[0, 0, 0x80, 0, 0, 0, 0x80, 0]);
    let sum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    let mut gif = golden::read_golden_file("odd/gif_offset.gif");

    gif[6..10].copy_from_slice(&[255; 4]);
    let mut jpeg = golden::read_golden_file("usual/jpeg_gray.jpg");
    let frame = jpeg
        .windows(2)
        .position(|marker| marker == [0xFF, 0xC0])
        .unwrap();

    jpeg[frame + 5..frame + 9].copy_from_slice(&[255, 220, 255, 220]);
    let mut bmp = golden::read_golden_file("usual/bmp_rgb.bmp");
    bmp[18..26].copy_from_slice(&[0, 0x40, 0, 0, 0, 0x40, 0, 0]);

    for (bytes, size) in [(png, 32_768), (gif, 65_535), (jpeg, 65_500), (bmp, 16_384)] {
        match decode_image(&bytes) {
            Err(DecodeError::InvalidSize { width, height, .. }) => {
                assert_eq!((width, height), (size, size));
            }
            other => panic!("{size}: {:?}", other.map(|image| image.width)),
        }
    }
}

#[test]
fn what_is_no_image_shows_its_first_bytes() {
    assert_eq!(
        decode_image(b"<html>not found").unwrap_err().to_string(),
        "an image begins with the bytes [3c, 68, 74, 6d, 6c, 3e, 6e, 6f], expected JPEG, PNG, WebP, \
         GIF or BMP; convert it, or leave the sample out"
    );

    assert_eq!(
        decode_image(b"").unwrap_err(),
        DecodeError::UnknownFormat(Vec::new())
    );
}

proptest::proptest! {
    #[test]
    fn damage_is_an_error_or_a_image_but_never_a_panic(
        which in 0..50usize, at in 0..4096usize, value: u8, cut in 0..4096usize,
    ) {
        let (name, _) = golden::expected_images().swap_remove(which);
        let mut bytes = golden::read_golden_file(&name);
        bytes.truncate(4096);
        let at = at % bytes.len();
        bytes[at] = value;
        if cut % 2 == 0 { bytes.truncate(cut) };

        if let Ok(image) = decode_image(&bytes) {
            proptest::prop_assert_eq!(rgb(&image).len(), image.width * image.height * 3);
        }
    }
}

/// The checksum of PNG, so that only the size is wrong.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

#[test]
fn a_webp_that_announces_metadata_without_holding_any_has_the_same_pixels() {
    let plain = golden::read_golden_file("usual/webp_lossy.webp");
    let expected = decode_image(&plain).unwrap();
    let [width, height] =
        [expected.width, expected.height].map(|side| (side as u32 - 1).to_le_bytes());

    // Nothing, EXIF, XMP, both.
    for flags in [0, 8, 4, 12] {
        let mut extended = b"WEBPVP8X\x0A\0\0\0".to_vec();
        extended.extend([flags, 0, 0, 0]);
        extended.extend([&width[..3], &height[..3], &plain[12..]].concat());
        let length = (extended.len() as u32).to_le_bytes();
        let file = [&b"RIFF"[..], &length, &extended].concat();
        assert_eq!(decode_image(&file).unwrap(), expected, "flags {flags}");
    }
}

#[test]
fn a_png_with_a_wrong_checksum_has_the_same_pixels() {
    let mut png = golden::read_golden_file("usual/png_rgb.png");
    let expected = decode_image(&png).unwrap();
    let data = png.windows(4).position(|name| name == b"IDAT").unwrap();
    let length = u32::from_be_bytes(png[data - 4..data].try_into().unwrap()) as usize;

    png[data + 4 + length] ^= 0xFF;
    assert_eq!(decode_image(&png).unwrap(), expected);
    png.truncate(data + 4 + length + 4);
    assert_eq!(decode_image(&png).unwrap(), expected, "without its end");
}

#[test]
fn a_side_of_millions_is_refused_by_the_header() {
    let mut png = golden::read_golden_file("usual/tiny_1x1.png");
    for (width, height) in [(1u32, 178_956_970u32), (20, 8_900_000), (60_000_000, 1)] {
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let error = decode_image(&png).unwrap_err();
        assert!(matches!(error, DecodeError::InvalidSize { .. }), "{error}");
    }
}

#[test]
fn a_progressive_jpeg_of_scans_without_end_is_refused() {
    let image = read_golden_file("usual/jpeg_444_q75_progressive.jpg");
    let last_scan = image.windows(2).rposition(|bytes| bytes == [0xFF, 0xDA]);
    let (before, scan_and_end) = image.split_at(last_scan.unwrap());
    let (scan, end) = scan_and_end.split_at(scan_and_end.len() - 2);
    let with_scans = |count: usize| [before, &scan.repeat(count), end].concat();

    assert!(decode_image(&with_scans(1)).is_ok());
    let error = decode_image(&with_scans(5000)).unwrap_err().to_string();
    assert!(error.contains("more than 100 scans"), "{error}");
}
