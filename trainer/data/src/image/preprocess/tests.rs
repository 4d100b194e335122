use super::*;
use crate::golden::{self, sha256_hex};

#[test]
fn every_file_becomes_the_square_of_the_reference() {
    for (name, golden) in golden::expected_images() {
        let image = decode_image(&golden::read_golden_file(&name)).unwrap();
        let square = image.resize_to_square(image.full_region(), golden.side);
        assert_eq!(sha256_hex(square.as_flattened()), golden.resized, "{name}");
    }
}

#[test]
fn the_planes_are_worth_what_the_reference_gives_a_tower() {
    for (name, golden) in golden::expected_images() {
        let side = golden.side;
        let mut planes = vec![0; 3 * side * side];
        preprocess_image(
            &golden::read_golden_file(&name),
            side,
            Augmentation::None,
            AugmentKey::default(),
            &mut planes,
        )
        .unwrap();

        let mut values = vec![0.0; planes.len()];
        normalize_pixels(&planes, side, &mut values);
        for (place, expected) in golden.normalised {
            assert!((values[place] - expected).abs() < 1e-6, "{name} at {place}");
        }
    }
}

#[test]
fn a_second_image_of_a_batch_is_normalised_like_the_first() {
    let planes: Vec<u8> = (0..3 * 4).map(|level| level * 20).collect();
    let mut one = vec![0.0; 12];
    let mut two = vec![0.0; 24];
    normalize_pixels(&planes, 2, &mut one);
    normalize_pixels(&[planes.as_slice(); 2].concat(), 2, &mut two);
    assert_eq!(two, [one.as_slice(); 2].concat());
}

#[test]
fn a_image_that_cannot_be_decoded_leaves_its_place_untouched() {
    let mut planes = vec![7; 12];
    assert!(
        preprocess_image(
            b"GIF89a",
            2,
            Augmentation::None,
            AugmentKey::default(),
            &mut planes
        )
        .is_err()
    );

    assert_eq!(planes, [7; 12]);
}
