use super::*;

fn whole<T, const C: usize>(pixels: &[[T; C]], width: usize, height: usize) -> PixelView<'_, T, C> {
    PixelView {
        pixels,
        row_stride: width,
        region: PixelRegion {
            left: 0,
            top: 0,
            width,
            height,
        },
    }
}

#[test]
fn a_flat_image_stays_flat_at_any_size() {
    for (width, height, side) in [(1, 1, 8), (7, 500, 16), (64, 64, 224), (300, 31, 24)] {
        let pixels = vec![[3u8, 128, 255]; width * height];
        let square = whole(&pixels, width, height).resize_bicubic(side);
        assert_eq!(
            square,
            vec![[3, 128, 255]; side * side],
            "{width}×{height} → {side}"
        );
    }
}

#[test]
fn a_region_is_resized_as_if_it_were_the_whole() {
    let pixels: Vec<[u8; 2]> = (0..40 * 30)
        .map(|i| [(i * 7 % 256) as u8, (i % 251) as u8])
        .collect();

    let region = PixelRegion {
        left: 5,
        top: 3,
        width: 20,
        height: 24,
    };

    let view = PixelView {
        pixels: &pixels,
        row_stride: 40,
        region,
    };

    let cut = view.to_pixels();
    assert_eq!(cut[..2], [pixels[3 * 40 + 5], pixels[3 * 40 + 6]]);
    assert_eq!(
        view.resize_bicubic(16),
        whole(&cut, 20, 24).resize_bicubic(16)
    );
    assert_eq!(
        view.resize_nearest(16),
        whole(&cut, 20, 24).resize_nearest(16)
    );
}

#[test]
fn the_nearest_pixels_are_those_under_the_middles() {
    assert_eq!(nearest_indices(4, 2), [1, 3]);
    assert_eq!(nearest_indices(2, 4), [0, 0, 1, 1]);
    assert_eq!(nearest_indices(3, 5), [0, 0, 1, 2, 2]);
    assert_eq!(nearest_indices(1, 3), [0, 0, 0]);
}

#[test]
fn the_weights_of_every_target_add_up_to_one() {
    for (input, output) in [(1, 5), (64, 63), (63, 64), (826, 224), (5000, 16)] {
        for (start, weights) in FilterTaps::new(input, output).iter() {
            assert!(start < input);
            assert!(
                (weights.iter().sum::<f64>() - 1.0).abs() < 1e-12,
                "{input} → {output}"
            );
        }
    }
}
