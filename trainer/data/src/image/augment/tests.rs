use super::operation::AugmentOp;
use super::*;
use crate::golden::{self, sha256_hex};
use crate::image::decode::{PixelData, decode_image};

const SIDE: usize = 64;

fn square(name: &str) -> (DecodedImage, Vec<Rgb>) {
    let image = decode_image(&golden::read_golden_file(name)).unwrap();
    let square = image.resize_to_square(image.full_region(), SIDE);
    (image, square)
}

fn operation(name: &str) -> Option<AugmentOp> {
    Some(match name {
        "AutoContrast" => AugmentOp::AutoContrast,
        "Color" => AugmentOp::Color,
        "Contrast" => AugmentOp::Contrast,
        "Equalize" => AugmentOp::Equalize,
        "Invert" => AugmentOp::Invert,
        "PosterizeOriginal" => AugmentOp::Posterize,
        "Rotate" => AugmentOp::Rotate,
        "Sharpness" => AugmentOp::Sharpness,
        "ShearX" => AugmentOp::ShearX,
        "Solarize" => AugmentOp::Solarize,
        _ => return None,
    })
}

#[test]
fn every_operation_at_every_level_gives_the_pixels_of_the_reference() {
    let mut seen = 0;
    for (name, golden) in golden::expected_augmentations() {
        let (kind, level) = name.split_once('/').unwrap_or((&name, "0"));
        let Some(operation) = operation(kind) else {
            continue;
        };

        let (input, level) = match level.parse() {
            Ok(level) => ("base.png", level),
            Err(_) => ("flat.png", 0),
        };

        let (_, mut square) = square(input);
        operation.apply_level(&mut square, SIDE, level);
        assert_eq!(sha256_hex(square.as_flattened()), golden.sha256, "{name}");
        seen += 1;
    }

    assert_eq!(seen, 76);
}

#[test]
fn every_pair_of_the_policy_gives_the_pixels_of_the_reference() {
    let golden = golden::expected_augmentations();
    for (number, pair) in (1..).zip(policy::AUTO_AUGMENT_POLICY) {
        let expected = &golden[&format!("policy/{number}")];
        let (_, mut square) = square("base.png");
        for ((operation, _, level), sign) in pair.into_iter().zip(expected.signs.unwrap()) {
            operation.apply_level(&mut square, SIDE, level * sign);
        }

        assert_eq!(
            sha256_hex(square.as_flattened()),
            expected.sha256,
            "pair {number}"
        );
    }
}

#[test]
fn crops_and_the_mirror_give_the_pixels_of_the_reference() {
    let golden = golden::expected_augmentations();
    let (image, mut square) = square("base.png");
    for number in 0..4 {
        let expected = &golden[&format!("crop/{number}")];
        let golden::ExpectedCrop {
            top,
            left,
            height,
            width,
            size,
        } = *expected.crop.as_ref().unwrap();

        let square = image.resize_to_square(
            PixelRegion {
                left,
                top,
                width,
                height,
            },
            size,
        );

        assert_eq!(
            sha256_hex(square.as_flattened()),
            expected.sha256,
            "crop {number}"
        );
    }

    flip_horizontal(&mut square, SIDE);
    assert_eq!(sha256_hex(square.as_flattened()), golden["hflip"].sha256);
}

#[test]
fn the_probabilities_of_the_policy_are_those_of_the_paper() {
    let sum = |side: usize| {
        policy::AUTO_AUGMENT_POLICY
            .iter()
            .map(|pair| (pair[side].1 * 10.0) as u32)
            .sum::<u32>()
    };

    assert_eq!([sum(0), sum(1)], [138, 172]);
}

#[test]
fn a_key_gives_the_same_image_again_and_any_other_key_another() {
    let (image, _) = square("base.png");
    let drawn = |seed, step, sample| {
        augment_image(
            &image,
            32,
            Augmentation::AutoAugment,
            AugmentKey { seed, step, sample },
        )
    };

    assert_eq!(drawn(1, 2, 3), drawn(1, 2, 3));
    for other in [
        drawn(2, 2, 3),
        drawn(1, 3, 3),
        drawn(1, 2, 4),
        drawn(2, 1, 3),
        drawn(1, 3, 2),
    ] {
        assert_ne!(drawn(1, 2, 3), other);
    }
}

#[test]
fn without_augmentation_the_key_changes_nothing() {
    let (image, square) = square("base.png");
    let key = AugmentKey {
        seed: 5,
        step: 6,
        sample: 7,
    };

    assert_eq!(augment_image(&image, SIDE, Augmentation::None, key), square);
}

/// The numbers of many images.
fn keys(count: u64) -> impl Iterator<Item = AugmentRng> {
    (0..count).map(|sample| {
        AugmentRng::new(AugmentKey {
            seed: 9,
            step: 4,
            sample,
        })
    })
}

#[test]
fn crops_keep_nine_tenths_and_lie_inside_at_any_shape() {
    for (width, height) in [(1, 1), (3, 500), (500, 3), (64, 64), (600, 500)] {
        for mut draws in keys(200) {
            let PixelRegion {
                left,
                top,
                width: w,
                height: h,
            } = random_crop_region(width, height, &mut draws);

            assert!(w > 0 && h > 0 && left + w <= width && top + h <= height);
            if (width, height) == (600, 500) {
                let share = (w * h) as f64 / (width * height) as f64;
                let aspect = w as f64 / h as f64;
                assert!((0.895..1.005).contains(&share) && (0.74..1.34).contains(&aspect));
            }
        }
    }

    assert_eq!(
        center_crop_region(3, 500),
        PixelRegion {
            left: 0,
            top: 248,
            width: 3,
            height: 4
        }
    );

    assert_eq!(
        center_crop_region(500, 3),
        PixelRegion {
            left: 248,
            top: 0,
            width: 4,
            height: 3
        }
    );
}

#[test]
fn draws_are_spread_as_they_say() {
    let mut heads = 0;
    let mut sum = 0.0;
    let mut counts = [0u32; 25];

    for mut draws in keys(20_000) {
        heads += u32::from(draws.random_bool(0.3));
        sum += draws.random_range(-1.0, 3.0);
        counts[draws.random_index(25)] += 1;
    }

    assert!((5_800..6_200).contains(&heads), "{heads}");
    assert!((0.96..1.04).contains(&(sum / 20_000.0)), "{sum}");
    assert!(
        counts.iter().all(|count| (700..900).contains(count)),
        "{counts:?}"
    );

    let mut draws = AugmentRng::new(AugmentKey {
        seed: 0,
        step: 0,
        sample: 0,
    });

    assert!((0..1000).all(|_| !draws.random_bool(0.0) && draws.random_bool(1.0)));
}

#[test]
fn a_single_pixel_survives_every_operation() {
    for sample in 0..200 {
        let image = DecodedImage {
            width: 1,
            height: 1,
            pixels: PixelData::Gray(vec![200]),
        };

        let key = AugmentKey {
            seed: 1,
            step: 1,
            sample,
        };

        assert_eq!(
            augment_image(&image, 1, Augmentation::AutoAugment, key).len(),
            1
        );
    }
}

#[test]
fn an_operation_is_done_as_often_as_the_policy_says_and_half_of_the_time_the_other_way() {
    let square: Vec<Rgb> = (0..64).map(|i: u8| [i * 3, i * 2, 255 - i]).collect();
    let varied = |operation: AugmentOp, level| {
        let mut square = square.clone();
        operation.apply_level(&mut square, 8, level);
        square
    };

    let wanted = [varied(AugmentOp::ShearX, 5), varied(AugmentOp::ShearX, -5)];
    let mut counts = [0; 2];
    for mut draws in keys(20_000) {
        let mut square = square.clone();
        policy::apply_policy(&mut square, 8, &mut draws);
        for (count, wanted) in counts.iter_mut().zip(&wanted) {
            *count += u32::from(square == *wanted);
        }
    }

    // One pair of 25 shears, with probability 0.6; its other operation cannot change so few pixels.
    assert!(
        counts.iter().all(|count| (190..290).contains(count)),
        "{counts:?}"
    );
}
